"""Sites are the named tensors of a model; this module reads and changes them while the model runs.

A site is the output of a named module: of a dense layer, a norm, or, where an operation's result is no module's output
(scores, probabilities, residual sums), of a `Site`. So a model need not know who looks at its tensors or rounds them:
that is left to an interceptor (`on_sites`), or to Flax's own `capture_intermediates` (`capture`).
"""

from __future__ import annotations

import contextlib
import contextvars
import fnmatch
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.foundation.errors import QtxError
from qtx.masks import Mask
from qtx.parts import Part


class Site(nn.Module):
    """A `Site` returns its input: it names a tensor that no other module outputs, to be observed or quantized.

    `mask` says which of the tensor's values will be used at all (of scores and probabilities: those of visible keys);
    calibration leaves out the others.

    Attributes:
      part: what the tensor is to a transformer.
    """

    part: Part = Part.OTHER

    def __call__(self, x: jax.Array, mask: Mask | None = None) -> jax.Array:
        return x


SITE_MODULES = (nn.Dense, nn.LayerNorm, nn.RMSNorm, Site)
"""The kinds of modules whose outputs are sites."""

MASK = "mask"
"""The name, below a site's path, of the mask that the site is given."""

SITES_AND_TABLES = (*SITE_MODULES, nn.Embed)
"""The kinds of modules whose outputs are quantized: sites, and the look-ups of embedding tables."""

_watching: contextvars.ContextVar[tuple[Callable[[str], bool], ...]] = contextvars.ContextVar("watching", default=())


def part_of(module: Any) -> Part:
    """Returns what a module computes, as it declares; a norm of Flax's own is one of the residual stream."""
    declared = getattr(module, "part", None)
    if isinstance(declared, Part):
        return declared
    return Part.NORM if isinstance(module, nn.LayerNorm | nn.RMSNorm) else Part.OTHER


@contextlib.contextmanager
def watching(reads: Callable[[str], bool]) -> Iterator[None]:
    """Tells `watched`, within the context, that something reads or changes the sites whose paths `reads` accepts."""
    token = _watching.set((*_watching.get(), reads))
    try:
        yield
    finally:
        _watching.reset(token)


def watched(module: nn.Module, *names: str) -> bool:
    """Says whether anything reads or changes one of the sites below a module. If nothing does, the module's output may
    be computed in a way that never forms them.

    Calibration, quantizers, statistics and integer execution announce the sites that they read by `watching`. In a
    captured model (see `capture`) all sites count as read, since Flax does not tell which of them its filter takes.

    Args:
      module: a module that is running, e.g. an attention layer.
      names: the names of the sites below the module, e.g. `"scores"`, `"probs"`.
    """
    if module.is_mutable_collection("intermediates"):
        return True
    paths = ["/".join((*module.path, name)) for name in names]
    return any(reads(path) for reads in _watching.get() for path in paths)


@contextlib.contextmanager
def on_sites(
    function: Callable[[Any, str, Any, Mask | None], Any],
    paths: Collection[str] | None = None,
    kinds: tuple[type, ...] = SITE_MODULES,
) -> Iterator[None]:
    """Replaces, within the context, the output y of every site by `function(module, "path/of/module", y, mask)`.

    Args:
      function: see above; `mask` says which values of a `Site` count, None: all.
      paths: the paths of the sites that the function is called for; None: all.
      kinds: the kinds of modules that the function is called for.
    """

    def interceptor(next_function, args, kwargs, context):
        y, site = next_function(*args, **kwargs), context.module
        if context.method_name != "__call__" or not isinstance(site, kinds):
            return y
        path = "/".join(context.module.path)
        if paths is not None and path not in paths:
            return y
        return function(site, path, y, _mask_given(site, args, kwargs))

    with watching(lambda path: paths is None or path in paths), nn.intercept_methods(interceptor):
        yield


def _mask_given(site: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mask | None:
    """Returns the mask that a site is called with; None: it is called without one, or is no `Site`."""
    if not isinstance(site, Site):
        return None
    return args[1] if len(args) > 1 else kwargs.get(MASK)


class SiteShape(NamedTuple):
    """The leading axes of a site's variables (the layer axis, or none), and the size of the site's last axis."""

    leading: tuple[int, ...]
    features: int


def site_shapes(module: nn.Module, params: Any, batch: Mapping[str, Any]) -> dict[str, SiteShape]:
    """Finds every site of a model by tracing it once; `qtx.anatomy.read` says more, and also finds look-ups."""

    def mark(site, path, y, mask):
        site.put_variable("ranges", "mark", jnp.zeros(y.shape[-1:]))
        return y

    def trace(params, batch):
        with on_sites(mark):
            return module.apply({"params": params}, batch, mutable=["ranges"])[1]["ranges"]

    marks = jax.eval_shape(trace, params, dict(batch))
    leaves = jax.tree_util.tree_leaves_with_path(marks)
    return {"/".join(key.key for key in path[:-1]): SiteShape(leaf.shape[:-1], leaf.shape[-1]) for path, leaf in leaves}


def capture(apply: Callable[..., Any], sites: Collection[str], *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Returns what `apply(*args, **kwargs)` of a module returns, and what its sites held, each with a leading layer
    axis: `[L, ...]`, or `[1, ...]` outside the layers. It has to be called under `jax.jit`.

    A site that the model does not have (such as `layers/attention/gate` without a gate) is left out.

    Args:
      apply: `module.apply`, or a function that takes the same options.
      sites: paths, or patterns of paths, e.g. `"layers/mlp/out"`, `"layers/mlp*"`; and `"layers/attention/probs/mask"`,
        in full, for the `Mask` that a site was given, whose arrays have the layer axis.
      args, kwargs: the arguments of `apply`.

    Raises:
      QtxError: if one of the sites runs twice: its values are not one tensor.
    """

    def is_captured(module: nn.Module, method: str) -> bool:
        path = "/".join(module.path)
        named = method == "__call__" and isinstance(module, SITE_MODULES)
        return named and any(fnmatch.fnmatchcase(path, site) for site in sites)

    of_layer: dict[str, Any] = {}  # the numbers of axes of what is captured, within the layer

    def measure(next_function, args, kwargs, context):
        y, site, path = next_function(*args, **kwargs), context.module, "/".join(context.module.path)
        if is_captured(site, context.method_name):
            of_layer[path] = jnp.ndim(y)
        mask = _mask_given(site, args, kwargs) if f"{path}/{MASK}" in sites else None
        if mask is not None:
            of_layer[f"{path}/{MASK}"] = jax.tree.map(jnp.ndim, mask)
            site.sow("intermediates", MASK, mask)
        return y

    with nn.intercept_methods(measure):
        y, variables = apply(*args, **kwargs, capture_intermediates=is_captured, mutable=["intermediates"])
    flat = traverse_util.flatten_dict(variables.get("intermediates", {}), sep="/")
    values = {path.removesuffix("/__call__"): value for path, value in flat.items()}
    for path, (first, *others) in values.items():
        if others:
            raise QtxError(
                f"site {path!r} runs {len(others) + 1} times in one forward pass, so what it held is not one tensor: "
                "give each time a Site of its own in the model"
            )
        values[path] = first

    def with_layers(x, axes):
        return x if jnp.ndim(x) > axes else jnp.asarray(x)[None]

    return y, {site: jax.tree.map(with_layers, x, of_layer[site]) for site, x in values.items()}
