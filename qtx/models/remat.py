"""Rematerialization: which of a block's activations the backward pass keeps, and which it computes again."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from qtx.foundation.errors import lookup
from qtx.layers import DENSE_OUTPUT

NONE = "none"

# Name -> what is kept: a policy of `jax.checkpoint`, None for nothing but a block's input. A new one is a line here.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
    # No rematerialization at all.
    NONE: jax.checkpoint_policies.everything_saveable,
    # The least memory, for about a third more time: one more forward pass.
    "full": None,
    # The outputs of dense layers are kept, the T x T scores and probabilities are not: saves most of the memory, for
    # little time.
    "dots": jax.checkpoint_policies.save_only_these_names(DENSE_OUTPUT),
}


def rematerialized(block: type[nn.Module], policy: str) -> type[nn.Module]:
    """Returns the block class under a named policy.

    Raises:
      QtxError: if there is no such policy.
    """
    saved = lookup(REMAT_POLICIES, "remat policy", policy)
    return block if policy == NONE else nn.remat(block, prevent_cse=False, policy=saved)
