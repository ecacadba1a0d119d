"""This module makes the parameters of a trained softmax model those of the same model with another attention."""

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
    """Makes the parameters that a model starts from out of those of another model.

    Parameters of both models are copied. New ones are as when training begins, but for the last kernel of a gate, which
    is 0, so that the gate is open by pi everywhere: with the attention of
    `qtx.attention.conversion.converted_attention` both models are the same function.

    Args:
      module: the new model, with its `config`.
      params_of_original: the original model's parameter tree, boxed or not.
      seed: the seed of what is new and random, such as the hidden layer of an MLP gate.

    Returns:
      the new model's parameter tree, float32.

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
    # Compiled for the new parameters alone: the values of the others, and the model's output, are never computed.
    new = jax.jit(lambda key: {path: x for path, x in fresh(key).items() if path not in given})(jax.random.key(seed))
    if LAST_KERNEL in new:
        new[LAST_KERNEL] = jnp.zeros_like(new[LAST_KERNEL])
    return traverse_util.unflatten_dict({**given, **new}, sep="/")
