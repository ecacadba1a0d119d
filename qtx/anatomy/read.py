"""Reading a model's anatomy off its traces."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from qtx.anatomy.description import Anatomy, Parameter, Role, SiteInfo, Stack, stack_of
from qtx.attention.multi_head import WithParameters
from qtx.attention.parameters import NORMALIZER
from qtx.attention.prefix import Prefix
from qtx.masks import Mask
from qtx.sites import SITES_AND_TABLES, on_sites, part_of, watching

ROLES = {"kernel": Role.KERNEL, "embedding": Role.TABLE, "bias": Role.BIAS, "scale": Role.SCALE}
"""By the names that Flax gives the parameters of its modules."""

MARKS = "ranges"
"""The collection that all stacks of layers carry along with their sites."""

Shapes = tuple[tuple[str, tuple[int, ...], str], ...]


def read(module: nn.Module, batch: Mapping[str, Any]) -> Anatomy:
    """Returns what a model is made of. It is traced without computing, and read once for all batches of one shape.

    Args:
      module: any Flax module that takes a batch; its stacks of layers, wherever they are and whatever their names, are
        those of `nn.scan`.
      batch: gives shapes only.
    """
    shapes = sorted((name, np.shape(x)[1:], str(np.result_type(x.dtype))) for name, x in batch.items())
    return _read(module, tuple(shapes))


@functools.lru_cache(maxsize=64)
def _read(module: nn.Module, shapes: Shapes) -> Anatomy:
    batch = {name: jax.ShapeDtypeStruct((1, *shape), np.dtype(dtype)) for name, shape, dtype in shapes}
    with watching(lambda path: True):  # sites that only some ways to compute attention have are there
        with on_sites(_mark):
            variables = jax.eval_shape(module.init, jax.random.key(0), batch)
        boxed, marks = variables["params"], variables.get(MARKS, {})
        params = nn.unbox(boxed)
        whole = {
            f"{collection}/{path}": x
            for collection, tree in (("params", params), (MARKS, marks))
            for path, x in traverse_util.flatten_dict(tree, sep="/").items()
        }
        owners, roots, features = _trace(module, {"params": params, MARKS: marks}, batch, whole)
    stacks = tuple(sorted({Stack(root, whole[name].shape[0]) for name, root in roots.items()}))
    axes = {
        "/".join(key.key for key in path): tuple(spec)
        for path, spec in jax.tree_util.tree_leaves_with_path(
            nn.get_partition_spec(boxed), is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
        )
    }

    def parameter(path: str, shape: tuple[int, ...]) -> Parameter:
        stack = stack_of(stacks, path) if f"params/{path}" in roots else None
        parent, _, name = path.rpartition("/")
        owner = owners.get(parent)
        skipped = 0 if stack is None else 1
        names = (*axes[path], *(None,) * len(shape))[skipped : len(shape)]
        return Parameter(path, shape[skipped:], stack, names, _role(owner, name), part_of(owner))

    return Anatomy(
        stacks,
        {path: parameter(path, x.shape) for path, x in traverse_util.flatten_dict(params, sep="/").items()},
        {path: SiteInfo(path, part_of(owners[path]), n, stack_of(stacks, path)) for path, n in features.items()},
        (module, params, batch),
    )


def _mark(site: nn.Module, path: str, y: jax.Array, mask: Mask | None) -> jax.Array:
    """Gives a site a variable, which has an axis of layers in a stack even if the parameters have none."""
    if site.is_mutable_collection(MARKS):
        site.put_variable(MARKS, "mark", jnp.zeros(()))
    return y


def _trace(
    module: nn.Module, variables: Any, batch: Any, whole: Mapping[str, Any]
) -> tuple[dict[str, nn.Module], dict[str, str], dict[str, int]]:
    """Finds the modules of a model by path; the path of the scan that each stacked variable is in: of the outermost
    module within which the variable has an axis less than without; and the size of the last axis of each site."""
    owners: dict[str, nn.Module] = {}
    roots: dict[str, str] = {}
    features: dict[str, int] = {}

    def interceptor(next_function, args, kwargs, context):
        layer, path = context.module, "/".join(context.module.path)
        called = context.method_name == "__call__"
        if called:
            owners[path] = layer
            prefix = f"{path}/" if path else ""
            for collection in variables:
                inside = traverse_util.flatten_dict(layer.variables.get(collection, {}), sep="/")
                for name, x in inside.items():
                    full = f"{collection}/{prefix}{name}"
                    if x.ndim < whole[full].ndim:
                        roots.setdefault(full, path)
        y = next_function(*args, **kwargs)
        if called and isinstance(layer, SITES_AND_TABLES):
            features[path] = y.shape[-1]
        return y

    def run(variables, batch):
        with nn.intercept_methods(interceptor):
            return module.apply(variables, batch)

    jax.eval_shape(run, variables, batch)
    return owners, roots, features


def _role(owner: nn.Module | None, name: str) -> Role:
    if isinstance(owner, WithParameters):
        if owner.name == NORMALIZER:
            return Role.NORMALIZER
        return Role.GATE if name.endswith("kernel") else Role.BIAS  # see `qtx.attention.parameters.Parameter`
    return Role.PREFIX if isinstance(owner, Prefix) else ROLES.get(name, Role.OTHER)
