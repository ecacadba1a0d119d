"""One interceptor that observes, calibrates or fake-quantizes every site of a model that knows nothing of quantization.

Ranges live in the variable collection `ranges`, estimator states in `calibration`; both are shaped like the module
tree, with a leading layer axis under the scanned `layers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from qtx.layers import Site
from qtx.masks import Mask
from qtx.quantization.basis import basis_of, enter, leave
from qtx.quantization.granularity import Token
from qtx.quantization.weights import Plan, Planned, round_to_grid

SITE_MODULES = (nn.Dense, nn.LayerNorm, Site)


@contextlib.contextmanager
def on_sites(function: Callable[[nn.Module, str, Any, Any], Any], kinds: tuple[type, ...]) -> Iterator[None]:
    """Within the context, the output y of every module of `kinds` becomes `function(module, "path/of/module", y,
    mask)`; the mask says which values of a `Site` count, None: all."""

    def interceptor(next_function, args, kwargs, context):
        y = next_function(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, kinds):
            site: Any = context.module
            mask = args[1] if isinstance(site, Site) and len(args) > 1 else None
            return function(site, "/".join(site.path), y, mask)
        return y

    with nn.intercept_methods(interceptor):
        yield


class SiteShape(NamedTuple):
    """The leading (layer) shape of a site, `()` or `(L,)`, and the length of its tensor's last axis."""

    leading: tuple[int, ...]
    features: int


def sites(module: nn.Module, params: Any, batch: dict[str, jax.Array]) -> dict[str, SiteShape]:
    """Every activation site of a model, found by tracing it once, without computing."""

    def mark(site, path, y, mask):
        site.put_variable("ranges", "mark", jnp.zeros(y.shape[-1:]))
        return y

    def trace(params, batch):
        with on_sites(mark, SITE_MODULES):
            return module.apply({"params": params}, batch, mutable=["ranges"])[1]["ranges"]

    marks = jax.eval_shape(trace, params, batch)
    leaves = jax.tree_util.tree_leaves_with_path(marks)
    return {"/".join(key.key for key in path[:-1]): SiteShape(leaf.shape[:-1], leaf.shape[-1]) for path, leaf in leaves}


@contextlib.contextmanager
def fake_quantized(plan: Plan) -> Iterator[None]:
    """Within the context, sites and look-ups in `plan` are rounded to the grids of the `ranges` collection."""
    by_path = {planned.path: planned for planned in plan}

    def quantize(site, path, y, mask):
        if path not in by_path:
            return y
        return round_to_range(y, _variable(site, "ranges", "range"), by_path[path], mask)

    with on_sites(quantize, (*SITE_MODULES, nn.Embed)):
        yield


@contextlib.contextmanager
def calibrating(plan: Plan, tables: Plan) -> Iterator[None]:
    """Within the context, each site in `plan` updates its range with what it sees, then is rounded to it: later sites
    calibrate on inputs that are already quantized, as in the paper's code. Look-ups in `tables` are only rounded."""
    by_path = {planned.path: planned for planned in plan}
    looked_up = {planned.path: planned for planned in tables}

    def update(site, path, y, mask):
        if path in looked_up:
            return round_to_range(y, _variable(site, "ranges", "range"), looked_up[path])
        if path not in by_path:
            return y
        planned, r = by_path[path], _variable(site, "ranges", "range")
        if not isinstance(planned.granularity, Token):
            state = planned.granularity.update(
                planned.estimator,
                _variable(site, "calibration", "state"),
                enter(y, basis_of(r)),
                r["bits"],
                planned.symmetric,
                counted(planned, mask),
            )
            minimum, maximum = planned.granularity.result(planned.estimator, state)
            r = {**r, "minimum": minimum, "maximum": maximum}
            site.put_variable("calibration", "state", state)
            site.put_variable("ranges", "range", r)
        return round_to_range(y, r, planned, mask)

    with on_sites(update, (*SITE_MODULES, nn.Embed)):
        yield


def round_to_range(y: jax.Array, r: dict[str, jax.Array], planned: Planned, mask: Mask | None = None) -> jax.Array:
    """An activation rounded in the basis of its range `r`, in `y`'s dtype (a basis is float32)."""
    basis = basis_of(r)
    return leave(round_to_grid(enter(y, basis), r, planned, counted(planned, mask)), basis).astype(y.dtype)


def counted(planned: Planned, mask: Mask | None) -> jax.Array | None:
    """Which of a site's values its range is of, broadcasting to them; None: all."""
    return mask.dense() if planned.ignore_masked and mask is not None else None


def _variable(site: nn.Module, collection: str, name: str) -> Any:
    return site.get_variable(collection, name)
