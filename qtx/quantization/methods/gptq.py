"""GPTQ: rounding each weight such that the later ones make up for its error."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.foundation.errors import QtxError
from qtx.foundation.limits import positive
from qtx.quantization.basis import basis_of, enter, leave, linear
from qtx.quantization.methods.base import Method
from qtx.quantization.methods.inputs import gram
from qtx.quantization.plan import Planned, flatten, settled
from qtx.quantization.rounding import round_in_basis
from qtx.quantization.weights import from_integers, quantize_weights, to_integers

BLOCK = 128
KERNEL = "/kernel"


@dataclasses.dataclass(frozen=True)
class Gptq(Method):
    """Hessian-aware rounding of the dense layers' kernels (Frantar et al. 2022), on the grids of their ranges.

    For the inputs X `[N, D]` of a layer with kernel W `[D, F]`, GPTQ looks for Q on the grid with a small
    ||X W - X Q||^2 = tr (W - Q)^T H (W - Q), H = X^T X. It goes row by row: with H^-1 = U^T U, U upper triangular,

        q_j = round(w_j),    w_k -= U_jk (w_j - q_j) / U_jj    for the rows k > j, not rounded yet.

    H is summed over the calibration data, batch by batch, in one pass of the floating-point model, as the layers are
    one scan; layers that share a kernel have one sum. This simplifies the original, which makes one pass per layer,
    with the layers before already rounded. All H are held at once, `[L, D, D]` a kernel. A kernel whose range has a
    basis is rounded in it, with H of the inputs in it ("hadamard + gptq" is QuaRot's combination). The range of a group
    of rows is that of the weights as they are from the start, as every other range is; the original offers to set it
    when its first row is reached, from weights that have made up for earlier rows (section 5, "grouping"). Everything
    but dense kernels is rounded to nearest, as are rows without any input (the original zeroes them).

    Attributes:
      damping: fraction of the mean of H's diagonal that is added to the diagonal.
    """

    makes = ("weights",)

    damping: Annotated[float, positive("e.g. 0.01")] = 0.01

    def round_weights(self, problem):
        plan, ranges = settled(problem.plan), problem.ranges
        kernels = {p.path.removesuffix(KERNEL): p for p in plan if p.path.endswith(KERNEL)}
        hessians = problem.inputs(kernels, gram, jnp.add)
        if not hessians:
            raise QtxError(
                "gptq finds no dense layer whose kernel is quantized: choose another method, or a recipe with kernels"
            )
        flat, rounded = flatten(problem.params), dict(flatten(quantize_weights(plan, problem.params, ranges)))
        for layer, hessian in hessians.items():
            planned, path = kernels[layer], f"{layer}{KERNEL}"
            stacked = ranges[path]["bits"].ndim > 0
            hessian = hessian if stacked else hessian.reshape(-1, *hessian.shape[-2:]).sum(axis=0)
            rounded[path] = _round_kernel(planned, stacked, flat[path], hessian, ranges[path], self.damping)
            if not jnp.isfinite(rounded[path]).all():
                raise QtxError(f"the Hessian of {path!r} is singular at damping {self.damping}: raise it")
            # Bit for bit what a file of ranges gives back: a basis is left with other roundings in another program.
            if (ranges[path]["bits"] > 0).all():
                integers = to_integers(planned, rounded[path], ranges[path])
                rounded[path] = from_integers(planned, integers, ranges[path])
        return traverse_util.unflatten_dict(rounded, sep="/")


@functools.partial(jax.jit, static_argnames=("planned", "stacked"))
def _round_kernel(planned: Planned, stacked: bool, kernel, hessian, r, damping) -> jax.Array:
    """Rounds a kernel `[D, F]`, or `[L, D, F]` if stacked; one layer at a time, so that only one takes memory."""

    def of_layer(layer):
        kernel, hessian, r = layer
        basis = linear(basis_of(r))
        in_basis = enter(enter(hessian, basis).T, basis)  # M^T H M

        def to_grid(row, j):
            ends = {name: r[name] for name in ("minimum", "maximum")}
            of_row = {name: x[j * len(x) // len(kernel)] if x.ndim == 2 else x for name, x in ends.items()}
            return round_in_basis(row, {**r, **of_row}, planned)

        return leave(gptq(enter(kernel, basis, weight=True), in_basis, damping, to_grid), basis, weight=True)

    layers = kernel, hessian, r
    return jax.lax.map(of_layer, layers) if stacked else of_layer(layers)


def gptq(kernel: jax.Array, hessian: jax.Array, damping: float | jax.Array, to_grid: Any) -> jax.Array:
    """Returns the rounded kernel.

    Args:
      kernel: W, `[D, F]`.
      hessian: H = X^T X, `[D, D]`.
      damping: fraction of the mean of H's diagonal that is added to the diagonal.
      to_grid: rounds a row `[F]` of the kernel, given its index too.
    """
    size = kernel.shape[0]
    diagonal = jnp.diagonal(hessian)
    # A row that no input reaches has zeros in its row and column of H: with any diagonal, no other row gets its error.
    added = damping * diagonal.mean() + jnp.where(diagonal > 0, 0.0, 1.0)
    hessian = hessian + jnp.diag(added)
    # H = A A^T with A upper triangular, by Cholesky from the last row on; U = A^-1, without inverting H itself.
    upper = jnp.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    upper = jax.scipy.linalg.solve_triangular(upper, jnp.eye(size, dtype=kernel.dtype), lower=False)
    # Each row corrects the next rows of its block at once; one matrix product corrects all rows after the block.
    block = math.gcd(size, BLOCK)

    def round_block(i, state):
        kernel, rounded = state
        start = i * block
        rows = jax.lax.dynamic_slice_in_dim(kernel, start, block)
        to_all = jax.lax.dynamic_slice_in_dim(upper, start, block)
        within = jax.lax.dynamic_slice_in_dim(to_all, start, block, axis=1)

        def round_row(j, state):
            rows, quantized, errors = state
            q = to_grid(rows[j], start + j)
            error = (rows[j] - q) / within[j, j]
            # U's rows are zero before the diagonal, so rows that are done stay.
            return rows - jnp.outer(within[j], error), quantized.at[j].set(q), errors.at[j].set(error)

        empty = jnp.zeros_like(rows)
        _, quantized, errors = jax.lax.fori_loop(0, block, round_row, (rows, empty, empty))
        kernel = kernel - jnp.matmul(to_all.T, errors, precision=jax.lax.Precision.HIGHEST)
        return kernel, jax.lax.dynamic_update_slice_in_dim(rounded, quantized, start, 0)

    return jax.lax.fori_loop(0, size // block, round_block, (kernel, jnp.zeros_like(kernel)))[1]
