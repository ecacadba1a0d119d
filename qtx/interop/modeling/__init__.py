"""This module writes `modeling_qtx.py`, which a checkpoint carries so that `transformers` computes its attention.

A stock model has the plain softmax alone. For another attention, the file has the stock classes with the attention
layer exchanged, and needs only torch and transformers. Loading with `trust_remote_code=True` runs the file; without it,
a stock class that reads the checkpoint refuses the `attn_implementation` that config.json asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtx.attention import GATES, NORMALIZERS
from qtx.attention.gates import DenseGate
from qtx.families import FAMILIES, Checkpoint
from qtx.foundation.config import registered_name
from qtx.foundation.errors import QtxError
from qtx.interop.modeling.file import rendered

FILE = "modeling_qtx.py"
KEYS = ("attn_implementation", "auto_map")
# A stock class refuses this name with a message that quotes it, and then lists the names that the class knows.
REFUSED = "qtx (load with trust_remote_code=True)"


def modeling(checkpoint: Checkpoint, config: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Returns a model's config.json, such that `transformers` computes the model, and the file of code that this takes,
    by name; no file if the stock class computes the model.

    Args:
      checkpoint: the kind of checkpoint.
      config: the model's config.
      values: the model's config.json, perhaps with an earlier model's code.

    Raises:
      QtxError: if the model's normalizer, gate or kind of checkpoint is not known in PyTorch.
    """
    attention, gate = config.attention, config.attention.gate
    stock, beginning = checkpoint.stock, str(checkpoint.beginning(values))
    plain = attention == checkpoint.attention and not config.prefix
    if plain and not (stock and stock.more(config)):
        ours = values.get("attn_implementation") == REFUSED
        return {key: value for key, value in values.items() if not ours or key not in KEYS}, {}
    architecture = f"{beginning}{checkpoint.ending(config)}"
    if stock is None:
        kinds = (kind for family in FAMILIES.values() for kind in family.checkpoints if kind.stock is not None)
        known = ", ".join(name for kind in kinds for name in kind.model_types)
        raise QtxError(
            f"{checkpoint.library.name}'s {architecture} has no code for an attention that is no plain softmax, or for "
            f"a prefix, as {known} have: leave the original out, to write the model as one of these, or give its "
            "Checkpoint the names of its Stock"
        )
    classes = stock.of_auto(beginning)
    if architecture not in classes.values():
        raise QtxError(
            f"a {architecture} has no code for an attention that is no plain softmax, as "
            f"{', '.join(classes.values())} have: train it with such a head, or keep the softmax"
        )
    _check_known("normalizer", attention.normalizer, NORMALIZERS)
    if gate is not None and not isinstance(gate, DenseGate):
        _check_known("gate", gate, GATES)
    names = {auto: f"{FILE.removesuffix('.py')}.{name}" for auto, name in classes.items()}
    code = rendered(config, stock, values["model_type"], beginning, REFUSED)
    return {**values, **dict(zip(KEYS, (REFUSED, names), strict=True))}, {FILE: code.encode()}


def _check_known(kind: str, entry: Any, registry: Mapping[str, type]) -> None:
    # A base class's `pytorch` may not compute what this class does.
    if "pytorch" not in vars(type(entry)):
        name = registered_name(registry, type(entry))
        raise QtxError(f"{kind} {name!r} is not known in PyTorch: give {type(entry).__name__} a method `pytorch`")
