"""What attention a trained softmax model may go on with, and by which options it starts as what it was."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import jax.numpy as jnp
import pytest

from qtx.attention import VARIANTS, AttentionConfig, attention_variant, converted_attention
from qtx.attention.conversion import starts_as_softmax
from qtx.attention.normalizers import NORMALIZERS, Softmax, softmax
from qtx.attention.parameters import Parameter
from qtx.foundation.errors import QtxError
from tests.strangers import documented

SOFTMAX = AttentionConfig()


@pytest.mark.parametrize(
    "wanted, original, becomes",
    [
        ("softmax", "softmax", "softmax"),
        ("clipped_softmax", "softmax", "clipped_softmax,gamma_warmup_steps=7"),
        ("clipped_softmax,gamma_warmup_steps=3", "softmax", "clipped_softmax,gamma_warmup_steps=3"),
        ("clipped_softmax_visible", "softmax", "clipped_softmax_visible,gamma_warmup_steps=7"),
        ("normalized_clipped_softmax", "softmax", "normalized_clipped_softmax,eta_warmup_steps=7"),
        ("softmax1", "softmax", "softmax1,empty_warmup_steps=7"),
        ("sink", "softmax", "sink,empty_warmup_steps=7"),
        ("gated_linear", "softmax", "gated_linear,gate_scale=4.0"),
        ("gated_mlp,gate_pi=0.1", "softmax", "gated_mlp,gate_pi=0.1,gate_scale=10.0"),
        ("gated_all_heads,gate_scale=4", "softmax", "gated_all_heads,gate_scale=4"),
        ("gated_headwise,gate_place=values", "softmax", "gated_headwise,gate_place=values,gate_scale=2"),
        ("gated_elementwise,gate_input=residual", "softmax", "gated_elementwise,gate_input=residual,gate_scale=2"),
        ("sink,gate=linear", "softmax", "sink,gate=linear,gate_scale=2,empty_warmup_steps=7"),
        # The model is what it is: a gate keeps its scale, and a warm-up is over.
        ("gated_linear", "gated_linear", "gated_linear"),
        ("none", "none", "none"),
        ("clipped_softmax", "clipped_softmax,gamma_warmup_steps=300", "clipped_softmax"),
        ("sink,empty_warmup_steps=300", "sink,empty_warmup_steps=300", "sink"),
    ],
)
def test_what_becomes_of_an_attention(wanted, original, becomes):
    found = converted_attention(attention_variant(wanted), attention_variant(original), 7)
    assert found == attention_variant(becomes)


@pytest.mark.parametrize(
    "wanted, original, says",
    [
        ("none", "softmax", "softmax model cannot become one with attention 'none'"),
        ("clipped_softmax,zeta=1.03", "softmax", "'clipped_softmax,zeta=1.03': at step 0 .* are not the softmax's"),
        ("normalized_clipped_softmax,beta=0.9", "softmax", "leave the options beside the warm-up"),
        ("gated_linear,gate_scale=2", "softmax", "gate_scale is 2.0, .* openness of 0.25, which only 4.0 makes up for"),
        ("softmax", "clipped_softmax", "trained with attention 'clipped_softmax' cannot become one with 'softmax'"),
        ("clipped_softmax,alpha=2", "clipped_softmax", "keep the attention it was trained with"),
        ("gated_mlp", "gated_linear", "only plain softmax can be converted"),
    ],
)
def test_what_would_be_another_model_is_refused(wanted, original, says):
    with pytest.raises(QtxError, match=says) as error:
        converted_attention(attention_variant(wanted), attention_variant(original), 7)
    assert "\n" not in str(error.value)


NEVER_A_SOFTMAX = {"none", "softpick", "sigmoid", "relu", "scalable_softmax", "sparsemax", "entmax15"}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_that_can_be_a_softmax_at_first_is_convertible(name):
    with pytest.raises(QtxError, match="its probabilities are not") if name in NEVER_A_SOFTMAX else nullcontext():
        converted_attention(VARIANTS[name], SOFTMAX, 7)


@dataclasses.dataclass(frozen=True)
class Warmer(Softmax):
    """softmax(t_h x) with t_h random at the start."""

    def parameters(self, num_heads):
        return {"t": Parameter((num_heads,))}

    def __call__(self, parameters, scores, rows):
        return softmax(jnp.exp(parameters["t"][:, None, None]) * scores, rows.mask.dense())


def test_what_is_a_softmax_at_first_is_found_by_computing_it():
    assert starts_as_softmax(Softmax())
    assert starts_as_softmax(documented("adding-a-variant.md")["Temperature"]()), "it starts at 1"
    assert not starts_as_softmax(Warmer())
    for name in ("softmax1", "sink", "normalized_clipped_softmax"):
        assert not starts_as_softmax(NORMALIZERS[name]())
