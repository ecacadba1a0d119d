"""What a sentence-transformers folder says is done with a model's last hidden states."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_json
from qtx.interop.carried import MODULES, module_list

EXPECTED = Expected("the options of a Pooling module", "save the model there with sentence-transformers")
POOLINGS = ("mean", "cls")
# The flags of the versions before 6, to today's names.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Modules(NamedTuple):
    """How hidden states `[B, T, width]` become one vector `[B, width]`.

    Attributes:
      pooling: `"mean"` over the tokens that are no padding, or `"cls"`, the first token's.
      normalize: whether it is divided by its L2 norm.
    """

    pooling: str
    normalize: bool


def read_modules(folder: str | Path) -> Modules:
    """The pooling and the normalization of a sentence-transformers folder.

    Raises:
      QtxError: if a file is missing or broken, or a module or its option is not supported.
    """
    folder = Path(folder)
    modules = module_list(folder)
    kinds = [kind.rpartition(".")[2] for kind, _ in modules]
    known = kinds[:2] == ["Transformer", "Pooling"] and kinds[2:] in ([], ["Normalize"])
    # Anybody's class may be called so.
    if not known or not all(kind.startswith("sentence_transformers.") for kind, _ in modules):
        raise QtxError(
            f"{folder / MODULES} has the modules {', '.join(kind for kind, _ in modules)}: expected those of "
            "sentence-transformers called Transformer, Pooling and, if it likes, Normalize"
        )
    path = modules[1][1] / "config.json"
    return Modules(_pooling(read_json(path, EXPECTED), path), len(kinds) == 3)


def _pooling(values: dict[str, Any], path: Path) -> str:
    flagged = [mode for flag, mode in FLAGS.items() if values.get(flag) is True]
    chosen = values.get("pooling_mode", flagged or "mean")
    chosen = chosen[0] if isinstance(chosen, list) and len(chosen) == 1 else chosen
    if not isinstance(chosen, str) or chosen not in POOLINGS:
        raise QtxError(f"{path}: the pooling mode is {str(chosen)[:100]}; qtx supports {' and '.join(POOLINGS)}")
    if values.get("include_prompt", True) is not True:
        raise QtxError(f"{path}: include_prompt is false; qtx's pooling is over prompts too")
    return chosen
