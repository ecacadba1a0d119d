"""This module gives a trained softmax model another attention that leaves it the same model when fine-tuning begins.

A normalizer starts as the softmax and grows into itself during its warm-up; a gate starts at an openness of pi
everywhere and multiplies by 1 / pi (Bondarenko et al. 2023, appendix B.6, at pi = 0.5).
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from qtx.attention.config import AttentionConfig, attention_text
from qtx.attention.gates import Gate, PerHeadGate
from qtx.attention.normalizers import Normalizer, Rows, softmax
from qtx.attention.parameters import Parameters
from qtx.foundation.errors import QtxError
from qtx.masks import Mask

PLAIN = AttentionConfig()


def converted_attention(wanted: AttentionConfig, original: AttentionConfig, warmup_steps: int) -> AttentionConfig:
    """Returns the attention with which a model that was trained with `original` goes on as one with `wanted`: at step
    0, with the parameters of `qtx.families.conversion`, both models are the same function.

    A warm-up of 0 steps becomes one of `warmup_steps`, and a gate's scale of 1 becomes 1 / pi. If `wanted` is the
    original's own attention, it has no warm-up any more.

    Args:
      wanted: the attention to fine-tune with.
      original: the attention that the model was trained with: the plain softmax, or `wanted`.
      warmup_steps: the steps of a new warm-up, at least 1.

    Raises:
      QtxError: if no parameters make both models the same function.
    """
    trained = without_warmup(original)
    if trained.normalizer.length is not None:
        wanted = wanted.trained_at(trained.normalizer.length)
    if without_warmup(wanted) == trained:
        return trained
    if trained != PLAIN:
        raise QtxError(
            f"a model trained with attention {attention_text(trained)!r} cannot become one with "
            f"{attention_text(wanted)!r}: only plain softmax can be converted; keep the attention it was trained with"
        )
    normalizer, gate = wanted.normalizer, wanted.gate
    normalizer = normalizer.with_warmup(normalizer.warmup_steps or warmup_steps)
    if not starts_as_softmax(normalizer):
        raise QtxError(
            f"a softmax model cannot become one with attention {attention_text(wanted)!r}: at step 0 its probabilities "
            "are not the softmax's, so that it would be another model; choose another attention, or leave the options "
            "beside the warm-up (zeta, beta) at their defaults"
        )
    return AttentionConfig(normalizer, None if gate is None else _multiplying_by_one(gate))


def without_warmup(attention: AttentionConfig) -> AttentionConfig:
    """Returns an attention as it is after its warm-up."""
    return AttentionConfig(attention.normalizer.with_warmup(0), attention.gate)


def starts_as_softmax(normalizer: Normalizer) -> bool:
    """Says whether a normalizer as initialized is the softmax at step 0, by computing both, with a mask and without."""
    rng, heads, keys = np.random.default_rng(0), 2, 8
    normalizer = normalizer.trained_at(keys)
    scores = jnp.asarray(rng.normal(scale=3, size=(1, heads, keys, keys)), jnp.float32)
    parameters = _begun(normalizer.parameters(heads), rng)
    masks = (Mask(keys), Mask(keys, causal=True, padding=jnp.arange(keys)[None] > 1))
    return all(
        np.allclose(normalizer(parameters, scores, Rows(mask, jnp.int32(0))), softmax(scores, mask.dense()), atol=1e-6)
        for mask in masks
    )


def _begun(parameters: Parameters, rng: np.random.Generator) -> dict[str, jax.Array]:
    """Draws values that parameters may start at."""
    return {
        name: jnp.asarray(rng.normal(size=p.shape) if p.start is None else jnp.full(p.shape, p.start), jnp.float32)
        for name, p in parameters.items()
    }


def _multiplying_by_one(gate: Gate) -> Gate:
    """Returns the gate with the scale that its initial openness asks for.

    Raises:
      QtxError: if the gate still changes what it is put on; a gate that sees each head apart is computed to find out.
    """
    scale = 1 / gate.initial_openness
    if gate.scale == 1.0:
        gate = dataclasses.replace(gate, scale=scale)
    if isinstance(gate, PerHeadGate):
        rng, heads, width = np.random.default_rng(0), 2, 4
        parameters = _begun(gate.parameters(heads, width), rng)
        # `qtx.families.conversion` starts the kernel at 0.
        parameters |= {name: jnp.zeros_like(x) for name, x in parameters.items() if name == "kernel"}
        x = jnp.asarray(rng.normal(size=(1, 8, heads, width)), jnp.float32)
        factors = scale * jax.nn.sigmoid(gate(parameters, x))
        if not jnp.allclose(factors, 1.0, atol=1e-5):
            raise QtxError(
                f"a gate of {type(gate).__name__} would multiply by {factors.min():.3g} to {factors.max():.3g} at "
                "first, so that the model would be another one: expected a gate that is open by its initial_openness "
                "everywhere where its parameter `kernel` is 0"
            )
    if not math.isclose(gate.scale, scale, rel_tol=1e-6):
        raise QtxError(
            f"gate_scale is {gate.scale}, but a trained model's gate starts at an openness of {gate.initial_openness}, "
            f"which only {scale} makes up for: leave gate_scale out"
        )
    return gate
