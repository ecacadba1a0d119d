"""The parameters of a trained softmax model as those of the same model with another attention."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.families.attention_weights import GATE
from qtx.foundation.errors import QtxError

LAST_KERNEL = f"{GATE}/kernel"


def converted_params(module: nn.Module, params_of_original: Any, seed: int) -> dict[str, Any]:
    """The parameters that a model starts from, made of those of another one.

    What both have is copied. What is new is as when training begins, but for the last kernel of a gate, which is 0, so
    that the gate is open by pi everywhere: with the attention of `qtx.attention.conversion.converted_attention` both
    models are the same function.

    Args:
      module: of the new model, with its `config`.
      params_of_original: the tree of the original, boxed or not.
      seed: of what is new and random, such as the hidden layer of an MLP gate.

    Returns:
      the tree of the new model, float32.

    Raises:
      QtxError: naming parameters that the original has in another shape, or that the new model does not have.
    """
    given = traverse_util.flatten_dict(nn.unbox(params_of_original), sep="/")

    def fresh(key: jax.Array) -> dict[str, jax.Array]:
        return traverse_util.flatten_dict(nn.unbox(module.init(key, module.config.example())["params"]), sep="/")

    expected = jax.eval_shape(fresh, jax.random.key(seed))
    lost = sorted(given.keys() - expected.keys())
    if lost:
        raise QtxError(
            f"the model to start from has {', '.join(lost)}, which the new one does not have: choose a model that has"
        )
    for path in given:
        if given[path].shape != expected[path].shape:
            raise QtxError(
                f"{path} has shape {given[path].shape} in the model to start from, and {expected[path].shape} in the "
                "new one: give both the same sizes"
            )
    # Compiled for the new ones alone: the values of the others, and the model's, are never computed.
    new = jax.jit(lambda key: {path: x for path, x in fresh(key).items() if path not in given})(jax.random.key(seed))
    if LAST_KERNEL in new:
        new[LAST_KERNEL] = jnp.zeros_like(new[LAST_KERNEL])
    return traverse_util.unflatten_dict({**given, **new}, sep="/")
