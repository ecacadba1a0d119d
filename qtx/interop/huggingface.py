"""Loading and saving qtx models as Hugging Face checkpoint folders."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from qtx.attention import AttentionConfig
from qtx.families import Checkpoint, build
from qtx.families.kinds import kind_for
from qtx.families.weights import export_weights, import_weights
from qtx.foundation.config import flattened
from qtx.foundation.storage import sealed_safetensors, write_whole
from qtx.interop.carried import carried
from qtx.interop.class_names import named_classes
from qtx.interop.modeling import modeling
from qtx.interop.original import as_in
from qtx.interop.sentence_files import modules_files
from qtx.interop.stored import ATTENTION_KEY, CONFIG, EXPECTED, open_folder, sizes_of, table_of
from qtx.interop.weight_files import WEIGHTS
from qtx.models import TransformerConfig

MOST_NUMBERS = 2**48
"""The bound on the numbers of one weight, far above what any memory holds."""


def load(folder: str | Path, attention: AttentionConfig | None = None) -> tuple[TransformerConfig, dict[str, Any]]:
    """Loads a checkpoint of a registered family, such as a BertForMaskedLM, as a qtx model.

    The paper's gates are recognised by the names and shapes of their weights (those of its official code); any other
    attention of a checkpoint from elsewhere has to be given by `attention`.

    Args:
      folder: the folder with config.json and model.safetensors, or shards with their index.
      attention: the attention variant, whose gate may be left at None; None: as `save` noted it, or softmax.

    Returns:
      The model's config (`qtx.families.build` makes the module of it) and the parameter tree, float32 numpy arrays.

    Raises:
      QtxError: if a file is missing or broken, the model or one of its options is not supported, or weights are
        missing, unexpected, or of the wrong shape.
    """
    stored = open_folder(Path(folder))
    config = stored.config(attention)
    try:
        shapes = _shapes(config)
    except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:  # sizes that no array has
        raise EXPECTED.refusal(stored.folder / CONFIG, error) from None
    table = table_of(stored.checkpoint, config)
    return config, import_weights(table, stored.used(table), shapes, sizes_of(config), stored.source)


def save(
    folder: str | Path,
    config: TransformerConfig,
    params: Any,
    original: str | Path | None = None,
    classes: Sequence[str] | None = None,
    learned: bool = False,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a checkpoint folder that `transformers` loads, whole or not at all; if none of its classes computes the
    model, with a file of code that does (`qtx.interop.modeling`).

    Args:
      folder: the folder, made if it does not exist.
      config: the model's config; what the data fills in (e.g. vocab_size) is filled in.
      params: the parameter tree, boxed or not.
      original: the checkpoint folder that the model was made of. Names, types and copies of its tensors, those that qtx
        does not compute with, the further keys of its config.json, and the files of its tokenizer and modules are taken
        from there; None: all is as `transformers` has it.
      classes: the names of a classifier's classes, used if `id2label` has no names of its own; if they are fewer, they
        name the first classes.
      learned: whether the model was trained on these classes, so that the original's names do not apply.
      files: further files of the model, by name.

    Raises:
      QtxError: if the family has no such checkpoints, the architecture or PyTorch cannot express the config, or
        `original` is another model's.
    """
    folder, config, params = Path(folder), config.resolved(), nn.unbox(params)
    if original is None:
        checkpoint = kind_for(config)
        values, contents = _anew(checkpoint, config, params)
    else:
        stored = open_folder(Path(original))
        checkpoint = stored.checkpoint
        values, contents = as_in(stored, config, params)
        contents = carried(Path(original)) | contents
    if classes:
        number = getattr(config, "num_classes", None) or 0
        values |= named_classes(checkpoint.library, values, number, classes, learned)
    if config.attention != checkpoint.attention:
        values[ATTENTION_KEY] = {k: v for k, v in flattened(config.attention).items() if v is not None}
    values, code = modeling(checkpoint, config, values)
    contents |= {**modules_files(config, None if original is None else Path(original)), **code, **(files or {})}
    text = json.dumps(values, indent=2) + "\n"
    write_whole({folder / name: content for name, content in {**contents, CONFIG: text.encode()}.items()})


def _anew(checkpoint: Checkpoint, config: TransformerConfig, params: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns config.json's values and the other files' contents for a model without an original."""
    tensors = export_weights(table_of(checkpoint, config), params, sizes_of(config))
    if checkpoint.ending(config) in checkpoint.bare:
        tensors = {name.removeprefix(checkpoint.prefix): x for name, x in tensors.items()}
    return checkpoint.write_config(config), {WEIGHTS: sealed_safetensors(tensors, format="pt")}


# Tracing takes longer than reading a small checkpoint; the checkpoints of one experiment share a config.
@functools.lru_cache(maxsize=8)
def _shapes(config: Any) -> Any:
    shapes = nn.unbox(jax.eval_shape(build(config).init, jax.random.key(0), config.example())["params"])
    largest = max(jax.tree.leaves(shapes), key=lambda leaf: leaf.size)
    if largest.size >= MOST_NUMBERS:
        raise ValueError(f"it means a weight of the shape {largest.shape}")
    return shapes
