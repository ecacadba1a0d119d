"""Rematerialization changes the memory of a training step, and nothing else."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.foundation.errors import QtxError
from qtx.models import Bert, BertConfig
from qtx.models.remat import REMAT_POLICIES

BATCH = {"tokens": np.arange(96).reshape(2, 48) % 40}


@functools.lru_cache
def compiled(policy: str):
    """(params -> (loss, gradients), bytes of its temporary memory)."""
    shape = dict(num_layers=3, width=16, num_heads=2, mlp_width=32, vocab_size=40, max_length=48, init_std=0.2)
    module = Bert(BertConfig(**shape, dropout=0.0, attention_dropout=0.0, remat=policy))
    params = jax.eval_shape(module.init, jax.random.key(0), BATCH)["params"]
    loss = jax.jit(jax.value_and_grad(lambda params: jnp.square(module.apply({"params": params}, BATCH)).mean()))
    function = loss.lower(params).compile()
    return function, function.memory_analysis().temp_size_in_bytes


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = compiled("none")[0].args_info[0][0]
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape, scale=0.2).astype(np.float32), shapes)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [policy for policy in REMAT_POLICIES if policy != "none"])
def test_same_loss_and_gradients(policy, params):
    (loss, gradients), (again, again_gradients) = (compiled(name)[0](params) for name in ("none", policy))
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * largest), again_gradients, gradients)


@pytest.mark.slow
def test_memory_falls_as_less_is_kept():
    none, dots, full = (compiled(policy)[1] for policy in ("none", "dots", "full"))
    assert full < dots < none


def test_unknown_policy():
    with pytest.raises(QtxError, match="unknown remat policy 'ful': did you mean 'full'"):
        BertConfig(remat="ful")
