"""One interceptor that observes, calibrates or fake-quantizes every site of a model that knows nothing of quantization.

Ranges live in the variable collection `ranges`, estimator states in `calibration`; both are shaped like the module
tree, with a leading layer axis under the scanned `layers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.layers import Site
from qtx.quantization.affine import fake_quantize, make_grid
from qtx.quantization.weights import Plan

SITE_MODULES = (nn.Dense, nn.LayerNorm, Site)


@contextlib.contextmanager
def on_sites(function: Callable[[nn.Module, str, Any], Any], kinds: tuple[type, ...]) -> Iterator[None]:
    """Within the context, the output y of every module of `kinds` becomes `function(module, "path/of/module", y)`."""

    def interceptor(next_function, args, kwargs, context):
        y = next_function(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, kinds):
            site: Any = context.module
            return function(site, "/".join(site.path), y)
        return y

    with nn.intercept_methods(interceptor):
        yield


def sites(module: nn.Module, params: Any, batch: dict[str, jax.Array]) -> dict[str, tuple[int, ...]]:
    """Every activation site of a model and its leading (layer) shape, found by tracing it once, without computing."""

    def mark(site, path, y):
        site.put_variable("ranges", "mark", jnp.zeros(()))
        return y

    def trace(params, batch):
        with on_sites(mark, SITE_MODULES):
            return module.apply({"params": params}, batch, mutable=["ranges"])[1]["ranges"]

    marks = jax.eval_shape(trace, params, batch)
    leaves = jax.tree_util.tree_leaves_with_path(marks)
    return {"/".join(key.key for key in path[:-1]): leaf.shape for path, leaf in leaves}


def _round_to_range(site: nn.Module, y: jax.Array, symmetric: bool) -> jax.Array:
    r: Any = site.get_variable("ranges", "range")
    return fake_quantize(y, make_grid(r["minimum"], r["maximum"], r["bits"], symmetric))


@contextlib.contextmanager
def fake_quantized(plan: Plan) -> Iterator[None]:
    """Within the context, sites and look-ups in `plan` are rounded to the grids of the `ranges` collection."""
    planned = {path: symmetric for path, symmetric, _ in plan}

    def quantize(site, path, y):
        return _round_to_range(site, y, planned[path]) if path in planned else y

    with on_sites(quantize, (*SITE_MODULES, nn.Embed)):
        yield


@contextlib.contextmanager
def calibrating(plan: Plan, tables: Plan) -> Iterator[None]:
    """Within the context, each site in `plan` updates its range with what it sees, then is rounded to it: later sites
    calibrate on inputs that are already quantized, as in the paper's code. Look-ups in `tables` are only rounded."""
    planned = {path: (symmetric, estimator) for path, symmetric, estimator in plan}
    looked_up = {path: symmetric for path, symmetric, _ in tables}

    def update(site, path, y):
        if path in looked_up:
            return _round_to_range(site, y, looked_up[path])
        if path not in planned:
            return y
        symmetric, estimator = planned[path]
        bits = site.get_variable("ranges", "range")["bits"]
        state = estimator.update(site.get_variable("calibration", "state"), y, bits, symmetric)
        minimum, maximum = estimator.result(state)
        site.put_variable("calibration", "state", state)
        site.put_variable("ranges", "range", {"bits": bits, "minimum": minimum, "maximum": maximum})
        return _round_to_range(site, y, symmetric)

    with on_sites(update, (*SITE_MODULES, nn.Embed)):
        yield
