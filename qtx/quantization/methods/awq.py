"""AWQ: the rows of kernels that meet large activations are scaled up before rounding."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from qtx.anatomy import Anatomy, Origin
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import at_least
from qtx.parts import Part
from qtx.quantization.basis import Bases
from qtx.quantization.methods.base import Method
from qtx.quantization.methods.inputs import gram
from qtx.quantization.methods.norms import at_norms, layers_fed_by_norms
from qtx.quantization.methods.problem import Problem
from qtx.quantization.plan import flatten, settled
from qtx.quantization.weights import quantize_weights, weight_ranges


@dataclasses.dataclass(frozen=True)
class Awq(Method):
    """Activation-aware weight quantization (Lin et al. 2023, eq. 4 and 5): x W = (x / s) (s W) with

        s_j = (mean |x_j|)^alpha,    alpha the best of 0, 1 / n, ..., (n - 1) / n,

    divided by the root of its largest times its smallest, for every input x `[N, D]` that dense layers W of a stack
    share. The best alpha, of each layer of the stack, has the least sum of ||x W - (x / s) Q(s W)||^2, Q rounding to
    nearest as the recipe says; it follows from X^T X, so the data are passed over twice, whatever n. The original
    measures the error behind the attention, where kernels share an input, and clips the weights' ranges afterwards;
    here, an estimator such as `mse` does.

    x is what norms put out, what the last kernels of feed-forward networks read, and the context, if each head has
    values of its own: where s costs nothing, as the scale of a norm or the kernel before takes 1 / s. This is done by
    the mechanism of `qtx.quantization.basis`, as in `smoothquant`. A gate that reads a norm's output, or an activation
    function without a product behind it, reads the value without s: a factor per channel.

    Attributes:
      steps: n, the number of alphas.
    """

    makes = ("smooth",)

    steps: Annotated[int, at_least(2, "e.g. 20")] = 20

    def find_bases(self, problem):
        wanted = {path.removesuffix("/kernel") for path in problem.quantizers}
        fed = {
            origin: kept
            for origin, layers in inputs_of(problem.anatomy).items()
            if (kept := tuple(sorted(wanted.intersection(layers))))
        }
        if not fed:
            raise QtxError(
                "awq finds no dense layer in a stack of layers whose kernel is quantized: choose another method, or a "
                "recipe with kernels"
            )
        # Layers that multiply the same tensor have the same input: the first layer's stands for all.
        first = [layers[0] for layers in fed.values()]
        sizes = problem.inputs(first, magnitude, jnp.add, in_bases=True)
        grams = problem.inputs(first, gram, jnp.add, in_bases=True)
        candidates = [
            {origin: factors(sizes[layers[0]], step / self.steps) for origin, layers in fed.items()}
            for step in range(self.steps)
        ]
        costs = [_costs(problem, fed, s, grams) for s in candidates]
        found: dict[str, jax.Array] = {}
        for origin, layers in fed.items():
            best = jnp.argmin(jnp.stack([cost[origin] for cost in costs]), axis=0)
            s = jnp.stack([candidate[origin] for candidate in candidates])[best, jnp.arange(len(best))]
            sites = at_norms(origin, s, 1.0)
            scales = {f"{site}/scale": s for site, s in sites.items() if f"{site}/scale" in problem.anatomy.parameters}
            found |= sites | scales | {f"{layer}/kernel": s for layer in layers}
        return {path: {"smooth": s} for path, s in found.items()}


def magnitude(x: jax.Array, where: jax.Array) -> jax.Array:
    """Computes the sum over n of |x_n|, `[N, D]` -> `[D]`."""
    return jnp.abs(x).sum(axis=0, where=where)


def factors(size: jax.Array, alpha: float) -> jax.Array:
    """Computes s of the sizes of channels, `[..., D]`; a channel that is always 0 counts as a very small one."""
    s = jnp.maximum(size / size.max(axis=-1, keepdims=True), 1e-4) ** alpha
    return s / jnp.sqrt(s.max(axis=-1, keepdims=True) * s.min(axis=-1, keepdims=True))


def inputs_of(anatomy: Anatomy) -> dict[Origin, tuple[str, ...]]:
    """Finds the dense layers of each stack by what they multiply, where a scale of its channels costs nothing."""
    found, sites = dict(layers_fed_by_norms(anatomy)), anatomy.sites
    own_values = {site.features for site in anatomy.sites_of((Part.VALUE,))}
    for layer, (origin, *_) in sorted(anatomy.operands.of.items()):
        kernel = anatomy.kernel_of(layer)
        read = None if origin is None or origin.later else sites.get(origin.site or "")
        if kernel is None or kernel.stack is None or read is None or origin is None:
            continue
        if read.part is Part.HIDDEN or (read.part is Part.CONTEXT and read.features in own_values):
            found[origin] = (*found.get(origin, ()), layer)
    return found


def _costs(
    problem: Problem, fed: dict[Origin, tuple[str, ...]], s: dict[Origin, jax.Array], grams: dict[str, jax.Array]
) -> dict[Origin, jax.Array]:
    """Computes, for each input and layer of its stack, `[L]`, how far rounding with the factors `s` moves the products:
    tr (W - Q)^T X^T X (W - Q)."""
    paths = {f"{layer}/kernel": origin for origin, layers in fed.items() for layer in layers}
    plan = tuple(planned for planned in problem.plan if planned.path in paths)
    bases: Bases = {path: {"smooth": s[origin]} for path, origin in paths.items()}
    bits = {path: problem.bits[path] for path in paths}
    flat = flatten(problem.params)
    kernels = {path: flat[path] for path in paths}
    ranges = weight_ranges(plan, kernels, bits, bases)
    rounded = quantize_weights(settled(plan), kernels, ranges)
    found = {}
    for origin, layers in fed.items():
        errors = [kernels[f"{layer}/kernel"] - flatten(rounded)[f"{layer}/kernel"] for layer in layers]
        found[origin] = sum(_energy(error, grams[layers[0]]) for error in errors)
    return found


@jax.jit
def _energy(error: jax.Array, gram: jax.Array) -> jax.Array:
    return jnp.einsum("ldf,lde,lef->l", error, gram, error, precision=jax.lax.Precision.HIGHEST, optimize="greedy")
