"""Fused attention: the product of probabilities and values without the probabilities. A new way to compute it is a file
here and a line in `BACKENDS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from qtx.attention.fused.backend import Backend, Case, case_of, record, recording
from qtx.attention.fused.blockwise import Blockwise
from qtx.foundation.errors import QtxError

BACKENDS: dict[str, Backend] = {"blockwise": Blockwise()}
"""By the name that configs know them by; where several pay, the first is taken."""

AUTO, NAIVE = "auto", "naive"
BACKEND_NAMES = (AUTO, NAIVE, *BACKENDS)
SEPARATOR = ", "


def chosen(name: str, case: Case, watched: bool) -> Backend | None:
    """What computes a layer; None: the naive way, with scores and probabilities in memory.

    Args:
      name: of `BACKEND_NAMES`; auto: the first that can compute the case and pays.
      case: the layer.
      watched: whether anything looks at scores or probabilities, or changes them, so that there must be some.

    Raises:
      QtxError: if the named one cannot compute the case.
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
    """What the attention layers of a function take, found by tracing it: a name, or several with commas."""
    with recording() as names:
        jax.eval_shape(function, *args)
    return SEPARATOR.join(sorted(set(names)))


__all__ = [
    "AUTO",
    "BACKENDS",
    "BACKEND_NAMES",
    "NAIVE",
    "SEPARATOR",
    "Backend",
    "Case",
    "case_of",
    "chosen",
    "taken_by",
]
