"""This module finds the sites whose outputs a model's matrix products multiply, in the program that JAX traces of it.

Sites and operands are given names in the trace (`jax.ad_checkpoint.checkpoint_name`, an identity). Operations between a
site and an operand that only move values about leave the values on the site's grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.extend
from jax.ad_checkpoint import checkpoint_name

from qtx.layers import Product
from qtx.sites import SITES_AND_TABLES, watching

PRODUCTS = (nn.Dense, Product)
TABLE = "/embedding"
"""The end of an embedding table's path, the name that `nn.Embed` gives it."""
PRODUCT_PRIMITIVES = ("dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general")
MOVES = {
    "reshape", "transpose", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "dynamic_slice", "rev", "copy",
    "sharding_constraint", "optimization_barrier", "name", "stop_gradient",
}  # fmt: skip
"""Primitives whose result holds only values of their first operand."""


class Origin(NamedTuple):
    """The origin of a tensor: the site whose values it holds.

    Attributes:
      site: path of the site.
      later: for a tensor that each scanned layer gets from the layer before: path of the site in that layer; `site` is
        then the one before the first layer.
      last: whether the tensor is the last layer's.
    """

    site: str | None
    later: str | None = None
    last: bool = False


class Operands(NamedTuple):
    """The matrix products of a traced model, and where their operands come from.

    Attributes:
      of: the source of each operand of each `Dense` and `Product`, by the module's path; None if unknown.
      elsewhere: paths of the modules that multiply without a `Dense` or a `Product`.
      tied: paths of the embedding tables that are also used otherwise than by look-ups, as by a tied head.
    """

    of: dict[str, tuple[Origin | None, ...]]
    elsewhere: set[str]
    tied: set[str]


class _Carried(NamedTuple):
    """A value that a scan carries into its body, by its number."""

    number: int


class _Table(NamedTuple):
    """An embedding table."""

    path: str

    def looked_up_in(self, stack: str) -> bool:
        """Says whether a name stack is that of the `Embed` that has the table."""
        return f"/{self.path.removesuffix(TABLE)}/" in f"/{_without_methods(stack)}/"


def operands(module: nn.Module, params: Any, batch: Mapping[str, Any]) -> Operands:
    """Traces a model, and finds the sources of its matrix products' operands.

    Args:
      module, params: the model; only the shapes of the parameters matter.
      batch: any batch; only its shapes matter.
    """
    modules: dict[str, int] = {}  # path to number of operands

    def interceptor(next_function, args, kwargs, context):
        layer, path = context.module, "/".join(context.module.path)
        if context.method_name != "__call__":
            return next_function(*args, **kwargs)
        modules[path] = len(args) if isinstance(layer, PRODUCTS) else 0
        if isinstance(layer, PRODUCTS):
            args = tuple(checkpoint_name(x, f"operand:{i}:{path}") for i, x in enumerate(args))
        y = next_function(*args, **kwargs)
        return checkpoint_name(y, f"site:{path}") if isinstance(layer, SITES_AND_TABLES) else y

    def run(params, batch):
        with watching(lambda path: True), nn.intercept_methods(interceptor):
            return module.apply({"params": params}, batch)

    program = jax.make_jaxpr(run)(params, dict(batch)).jaxpr
    trace = _Trace({}, set(), set())
    paths = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    tables = [_Table(path) if path.endswith(TABLE) else None for path in paths]
    trace.follow(program, tables + [None] * (len(program.invars) - len(tables)))
    multiplied = {path for path, count in modules.items() if count}
    found = {path: tuple(trace.found.get((path, i)) for i in range(modules[path])) for path in multiplied}
    places = {_module_at(stack, modules) for stack in trace.products}
    return Operands(found, places - multiplied, trace.tied)


def _module_at(stack: str, modules: Mapping[str, Any]) -> str:
    """Finds the innermost module of a name stack, which begins with the model's name or within the scanned layers, and
    names methods of modules ("module.method") too."""
    stack = _without_methods(stack)
    inside = [path for path in modules if path and f"/{path}/" in f"/{stack}/"]
    return max(inside, key=len, default="")


def _without_methods(stack: str) -> str:
    return "/".join(part for part in stack.split("/") if "." not in part)


class _Trace(NamedTuple):
    found: dict[tuple[str, int], Origin | None]
    products: set[str]
    tied: set[str]

    def follow(self, program: Any, entering: list[Any], stack: str = "") -> list[Any]:
        """Finds the sources of a program's results, from those of its inputs."""
        known: dict[Any, Any] = dict(zip(program.invars, entering, strict=True))

        def source(variable: Any) -> Any:
            return None if isinstance(variable, jax.extend.core.Literal) else known.get(variable)

        for equation in program.eqns:
            name, sources = equation.primitive.name, [source(x) for x in equation.invars]
            here = f"{stack}/{equation.source_info.name_stack}"
            label = equation.params.get("name", "") if name == "name" else ""
            results: list[Any] = [None] * len(equation.outvars)
            if name in PRODUCT_PRIMITIVES:
                self.products.add(here)
                self.tied.update(source.path for source in sources if isinstance(source, _Table))
            elif name == "scan":
                results = self._scan(equation, sources, here)
            elif label.startswith("site:"):
                results = [Origin(label.removeprefix("site:"))]
            elif label.startswith("operand:"):
                _, index, path = label.split(":", 2)
                key = path, int(index)
                # A module that is called on several tensors has the grid of none of them.
                self.found[key] = sources[0] if self.found.get(key, sources[0]) == sources[0] else None
                results = [sources[0]]
            elif name in MOVES or (name == "convert_element_type" and _same_type(equation)):
                results = [sources[0]] * len(results)
            else:
                called = [x for x in map(_program, equation.params.values()) if x is not None]
                if not called:
                    self.tied.update(s.path for s in sources if isinstance(s, _Table) and not s.looked_up_in(here))
                for inner in called[:1]:
                    # The condition that ends a loop is called too, but has other results than the loop.
                    if len(inner.invars) == len(sources) and len(inner.outvars) == len(results):
                        results = self.follow(inner, sources, here)
            known.update(zip(equation.outvars, results, strict=True))
        return [source(x) for x in program.outvars]

    def _scan(self, equation: Any, sources: list[Any], stack: str) -> list[Any]:
        body = equation.params["jaxpr"].jaxpr
        # These are counted, since how the equation's parameters give these numbers depends on JAX's version.
        carried = _unstacked(equation.outvars, body.outvars)
        consts = _unstacked(equation.invars, body.invars) - carried
        first = sources[consts : consts + carried]
        inside = _Trace({}, self.products, self.tied)
        entering = [None] * consts + [_Carried(i) for i in range(carried)]
        leaving = inside.follow(body, entering + [None] * (len(body.invars) - len(entering)), stack)

        def resolved(source: Any) -> Origin | None:
            if not isinstance(source, _Carried):
                return source
            before, after = first[source.number], leaving[source.number]
            return Origin(before.site, after.site) if isinstance(before, Origin) and isinstance(after, Origin) else None

        self.found.update({key: resolved(source) for key, source in inside.found.items()})
        last = [Origin(s.site, last=True) if isinstance(s, Origin) else None for s in leaving[:carried]]
        return last + [None] * (len(equation.outvars) - carried)


def _unstacked(outside: list[Any], inside: list[Any]) -> int:
    """Counts a scan's inputs or results that are the same within its body: the others have one more axis outside."""
    return sum(x.aval.shape == y.aval.shape for x, y in zip(outside, inside, strict=True))


def _same_type(equation: Any) -> bool:
    return equation.invars[0].aval.dtype == equation.outvars[0].aval.dtype


def _program(value: Any) -> Any:
    """Returns the program that a parameter of an equation is; None if it is none."""
    if isinstance(value, jax.extend.core.ClosedJaxpr):
        return value.jaxpr
    return value if isinstance(value, jax.extend.core.Jaxpr) else None
