"""Fused attention: the product of probabilities and values without storing the probabilities. A new backend is a file
here and a line in `BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from qtx.attention.fused.backend import AttentionCase, Backend, case_of, record, recording
from qtx.attention.fused.blockwise import Blockwise
from qtx.attention.fused.by_rows import ByRows
from qtx.foundation.errors import QtxError

BACKENDS: dict[str, Backend] = {"blockwise": Blockwise(), "by_rows": ByRows()}
"""Backends by the name that configs use; the first of several that pay is taken."""

AUTO, NAIVE = "auto", "naive"
BACKEND_NAMES = (AUTO, NAIVE, *BACKENDS)
SEPARATOR = ", "


def chosen(name: str, case: AttentionCase, watched: bool) -> Backend | None:
    """Returns the backend that computes a layer; None: the naive way, with scores and probabilities in memory.

    Args:
      name: a name in `BACKEND_NAMES`; auto: the first backend that can compute the case and pays.
      case: the layer.
      watched: whether anything reads or changes scores or probabilities, so that they must exist.

    Raises:
      QtxError: if the named backend cannot compute the case.
    """
    taken = NAIVE if watched else name
    if taken == AUTO:
        able = (name for name, backend in BACKENDS.items() if backend.refusal(case) is None and backend.pays(case))
        taken = next(able, NAIVE)
    record(taken)
    if taken == NAIVE:
        return None
    if refusal := BACKENDS[taken].refusal(case):
        raise QtxError(f"attention_backend {taken!r} does not compute {refusal}: set it to {AUTO!r} or {NAIVE!r}")
    return BACKENDS[taken]


def taken_by(function: Callable[..., Any], *args: Any) -> str:
    """Names the backends that the attention layers of a function take, joined by commas, by tracing the function."""
    with recording() as names:
        jax.eval_shape(function, *args)
    return SEPARATOR.join(sorted(set(names)))


__all__ = [
    "AUTO",
    "BACKENDS",
    "BACKEND_NAMES",
    "NAIVE",
    "SEPARATOR",
    "AttentionCase",
    "Backend",
    "case_of",
    "chosen",
    "taken_by",
]
