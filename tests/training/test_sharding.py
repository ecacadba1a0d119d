"""The table from logical axes to mesh axes, and the errors of a mesh that does not fit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from qtx.axes import partition
from qtx.foundation.errors import QtxError
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.program import make_program
from qtx.training.sharding import batch_shards, check_batch, make_mesh, process_part, shard_global_batch

SIZES = {"data": 2, "fsdp": 4, "tensor": 3}


@pytest.mark.parametrize(
    ("logical", "shape", "expected"),
    [
        (P("embed", "heads"), (8, 9), P(("fsdp",), ("tensor",))),
        (P("layers", "embed", "mlp"), (2, 8, 6), P(None, ("fsdp",), ("tensor",))),
        (P("batch"), (16, 5), P(("data", "fsdp"), None)),
        (P("positions", "embed"), (7, 8), P(None, ("fsdp",))),
        (P(), (8, 9), P(None, None)),
        # 10 is not a multiple of 3, nor 12 of 2 x 4: replicated, whatever the other dimension.
        (P("vocab", "embed"), (10, 8), P(None, ("fsdp",))),
        (P("batch"), (12,), P(None)),
        # One mesh axis cannot split two dimensions of an array.
        (P("embed", "embed"), (8, 8), P(("fsdp",), None)),
        # A dimension that stays whole leaves its mesh axis to a later one.
        (P("embed", "embed"), (7, 8), P(None, ("fsdp",))),
    ],
)
def test_partition(logical, shape, expected):
    assert partition(SIZES, logical, shape) == expected


def test_an_axis_that_the_table_does_not_have():
    with pytest.raises(QtxError, match="unknown logical axis 'head': did you mean 'heads'"):
        partition(SIZES, ("head",), (3,))


@pytest.mark.parametrize(
    ("config", "shape"),
    [((-1, 1, 1), (8, 1, 1)), ((1, -1, 2), (1, 4, 2)), ((2, 2, -1), (2, 2, 2)), ((2, 1, 1), (2, 1, 1))],
)
def test_mesh_shape(config, shape):
    assert tuple(make_mesh(MeshConfig(*config)).shape.values()) == shape


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ((16, 1, 1), "needs 16 devices, but there are 8"),
        ((-1, 3, 5), "needs 15 devices, but there are 8"),
        ((-1, 3, 1), "3 does not divide the 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit(config, message):
    with pytest.raises(QtxError, match=message):
        make_mesh(MeshConfig(*config))


def test_a_batch_that_does_not_divide_up():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    assert batch_shards(mesh) == 4
    check_batch(mesh, 24, 3)
    with pytest.raises(QtxError, match="batch_size 28 is not divisible by 12 .*set config.training.batch_size to 36"):
        check_batch(mesh, 28, 3)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 8)])
def test_one_process_has_the_whole_batch(sizes):
    assert process_part(make_mesh(MeshConfig(*sizes))) == (0, 1)


def test_a_global_batch_keeps_its_rows():
    batch = {"tokens": np.arange(48).reshape(16, 3)}
    placed = shard_global_batch(make_mesh(MeshConfig(2, 2, 2)), batch)
    np.testing.assert_array_equal(placed["tokens"], batch["tokens"])
    assert placed["tokens"].addressable_shards[0].data.shape == (4, 3)


def test_moments_lie_with_their_parameters(module, data, training):
    example = next(data.train(training.batch_size, 0))
    state = make_program(module, training, make_mesh(MeshConfig(2, 2, 2)), example).abstract_state

    def specs(tree):
        return jax.tree.map(lambda leaf: leaf.sharding.spec, tree)

    adam = next(s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(s, "mu"))
    params = specs(state.params)
    assert specs(adam.mu) == params and specs(adam.nu) == params
    assert params["layers"]["mlp"]["in"]["kernel"] == P(None, ("fsdp",), ("tensor",))
    assert adam.count.sharding.spec == P()


def test_training_config_default_is_valid_on_the_default_mesh():
    check_batch(make_mesh(MeshConfig()), TrainingConfig().batch_size, TrainingConfig().accumulation_steps)
