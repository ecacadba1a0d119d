"""Floating-point operations that a training step needs, counted in the program that JAX traces of the model."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.extend

from qtx.attention.fused import NAIVE


def step_flops(module: nn.Module, batch: Mapping[str, Any]) -> int:
    """Counts the model FLOPs of one training step: three times those of the forward pass's matrix products.

    As in PaLM (Chowdhery et al. 2022, appendix B), a multiplication and an addition are two operations, attention
    counts its whole T x T products, also where a causal mask hides half of them, and recomputation, elementwise work,
    embedding look-ups and the optimizer do not count. The head counts where it is computed: at the predicted positions
    (masked language modelling), at all tokens, or at the class token.

    Args:
      module: a model of any family, with the sizes that the data decide filled in.
      batch: arrays, or anything with their `.shape` and `.dtype`.
    """
    # NumPy's integers have 64 bits, JAX's 32: JAX warns where it is asked for the former by name.
    shapes = ((name, x.shape, str(jax.dtypes.canonicalize_dtype(x.dtype))) for name, x in sorted(batch.items()))
    return 3 * _forward_flops(module, tuple(shapes))


@functools.lru_cache(maxsize=16)
def _forward_flops(module: Any, shapes: tuple[tuple[str, tuple[int, ...], str], ...]) -> int:
    # A trace of the naive way shows all products.
    module = module.clone(config=dataclasses.replace(module.config, attention_backend=NAIVE))
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in shapes}
    params = jax.eval_shape(module.init, jax.random.key(0), batch)["params"]
    return product_flops(jax.make_jaxpr(lambda params, batch: module.apply({"params": params}, batch))(params, batch))


def product_flops(program: Any) -> int:
    """Counts the FLOPs of the matrix products in a traced program, as often as its loops run them."""
    total = 0
    for equation in getattr(program, "jaxpr", program).eqns:
        runs = equation.params["length"] if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)
        total += runs * sum(map(product_flops, _programs_in(equation.params)))
    return total


def _programs_in(params: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the programs that an equation calls; one that is differentiated by hand lists the same program twice."""
    if "call_jaxpr" in params:
        yield params["call_jaxpr"]
        return
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr)):
                yield item
