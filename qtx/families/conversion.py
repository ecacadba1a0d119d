"""The parameters of a trained softmax model as those of the same model with another attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.attention.gates import PerHeadGate
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
      QtxError: naming parameters that the original has in another shape, or that the new model does not have; for a
        gate that does not multiply by 1.
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
    check_multiplies_by_one(module.config, new)
    return traverse_util.unflatten_dict({**given, **new}, sep="/")


def check_multiplies_by_one(config: Any, new: Mapping[str, jax.Array]) -> None:
    """Raises QtxError if a gate among new parameters that sees each head apart, at the scale that conversion gave it,
    changes what it is put on: found by computing it in the first layer."""
    gate = config.attention.gate
    parameters = {path.removeprefix(f"{GATE}/"): x[0] for path, x in new.items() if path.startswith(f"{GATE}/")}
    if not isinstance(gate, PerHeadGate) or not parameters:
        return
    x = jax.random.normal(jax.random.key(0), (1, 8, config.num_heads, config.width // config.num_heads))
    factors = gate.scale * jax.nn.sigmoid(gate(parameters, x))
    if not jnp.allclose(factors, 1.0, atol=1e-5):
        raise QtxError(
            f"a gate of {type(gate).__name__} would multiply by {factors.min():.3g} to {factors.max():.3g} at first, "
            "so that the model would be another one: expected a gate that is open by its initial_openness everywhere "
            "where its parameter `kernel` is 0"
        )
