"""The placement of arrays: the device mesh, and the shardings of parameters, optimizer state and batches on it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from qtx.axes import LOGICAL_AXES, MESH_AXES, partition
from qtx.foundation.errors import QtxError


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The arrangement of the devices in a mesh; at most one axis may be -1: all devices that the other axes leave.

    Attributes:
      data: copies of the model, each with its part of the batch.
      fsdp: parts of the batch whose devices also share the parameters and optimizer state among them.
      tensor: parts of heads, feed-forward width and vocabulary.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self):
        sizes = dataclasses.astuple(self)
        if any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
            raise QtxError(
                f"data x fsdp x tensor is {' x '.join(map(str, sizes))}: expected positive sizes, or one of them -1 "
                "for all devices that the others leave"
            )


ALL_DEVICES = MeshConfig()


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Returns the mesh, over the first devices that it needs.

    Raises:
      QtxError: if there are not enough devices, they do not divide up, or several processes would not use all.
    """
    devices = jax.devices() if devices is None else devices
    sizes = list(dataclasses.astuple(config))
    fixed = math.prod(size for size in sizes if size != -1)
    shape = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
    if fixed > len(devices):
        raise QtxError(f"the mesh {shape} needs {fixed} devices, but there are {len(devices)}: lower config.mesh")
    if -1 in sizes:
        if len(devices) % fixed:
            raise QtxError(f"the mesh {shape} does not fit: {fixed} does not divide the {len(devices)} devices")
        sizes[sizes.index(-1)] = len(devices) // fixed
    used = math.prod(sizes)
    if used < len(devices) and jax.process_count() > 1:
        raise QtxError(f"the mesh {shape} uses {used} of {len(devices)} devices: several processes must use all")
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:used])


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of parts into which devices split a batch."""
    return math.prod(mesh.shape[axis] for axis in LOGICAL_AXES["batch"])


def check_batch(mesh: Mesh, batch_size: int, accumulation_steps: int) -> None:
    """Raises QtxError unless every device gets the same number of examples in every microbatch."""
    parts = batch_shards(mesh) * accumulation_steps
    if batch_size % parts:
        raise QtxError(
            f"batch_size {batch_size} is not divisible by {parts} (mesh data {mesh.shape['data']} x fsdp "
            f"{mesh.shape['fsdp']} x accumulation_steps {accumulation_steps}): set config.training.batch_size to "
            f"{-(-batch_size // parts) * parts}"
        )


def param_shardings(mesh: Mesh, boxed: Any) -> Any:
    """Returns a `NamedSharding` per parameter, from (abstract) parameters boxed with their logical axes by `init`."""

    def of(spec, leaf):
        return NamedSharding(mesh, partition(mesh.shape, spec, leaf.shape))

    specs = nn.get_partition_spec(boxed)
    return jax.tree.map(of, specs, nn.unbox(boxed), is_leaf=lambda x: isinstance(x, PartitionSpec))


def optimizer_shardings(mesh: Mesh, optimizer: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """Returns the shardings of `optimizer.init(params)`: moments lie with their parameter; counters, and arrays smaller
    than their parameter (Adafactor's rows and columns), are on every device."""
    everywhere = replicated(mesh)

    def is_masked(leaf):
        """Says whether a parameter has no place in this part of the state, but in that of another optimizer."""
        return isinstance(leaf, optax.MaskedNode)

    def of(leaf, sharding, param):
        return leaf if is_masked(leaf) else sharding if leaf.shape == param.shape else everywhere

    state = jax.eval_shape(optimizer.init, params)
    return optax.tree_map_params(
        optimizer, of, state, shardings, params, transform_non_params=lambda _: everywhere, is_leaf=is_masked
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis, the examples."""
    return NamedSharding(mesh, PartitionSpec(LOGICAL_AXES["batch"]))


def process_part(mesh: Mesh) -> tuple[int, int]:
    """Returns (index, count): which part of a batch this process holds, and into how many parts processes split it.

    Processes that split tensors among them, and not examples, hold the same part.
    """
    shards = batch_shards(mesh)
    held: dict[int, set[int]] = {}
    placed: dict[Any, Any] = dict(batch_sharding(mesh).devices_indices_map((shards,)))
    for device, index in placed.items():
        held.setdefault(device.process_index, set()).update(range(*index[0].indices(shards)))
    parts = sorted({tuple(sorted(rows)) for rows in held.values()})
    if sum(map(len, parts)) != shards or len({len(rows) for rows in parts}) > 1:
        raise QtxError(
            f"the processes do not hold equal parts of the batch on the mesh {dict(mesh.shape)}: expected data x fsdp, "
            "or tensor, to be a multiple of the devices of a process"
        )
    return parts.index(tuple(sorted(held[jax.process_index()]))), len(parts)


def shard_process_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns the global batch of which every process gives its own part; see `process_part`."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def shard_global_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Returns the global batch of which every process gives the whole."""
    sharding = batch_sharding(mesh)

    def shard(value):
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return {name: shard(np.asarray(value)) for name, value in batch.items()}
