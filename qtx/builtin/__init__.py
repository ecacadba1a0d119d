"""Checkpoints that come with the package: real models, small enough for every clone."""

from pathlib import Path

from qtx.foundation.errors import lookup


def builtin_checkpoint(name: str) -> Path:
    """Returns the Hugging Face folder of a built-in checkpoint, e.g. of `"minilm-2l"`.

    Raises:
      QtxError: for an unknown name; the message has the nearest one.
    """
    checkpoints = {file.parent.name: file.parent for file in Path(__file__).parent.glob("*/config.json")}
    return lookup(checkpoints, "built-in checkpoint", name)
