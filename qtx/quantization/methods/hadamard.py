"""Rotations: activations and weights in a basis in which every outlier is spread over all dimensions."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import jax.numpy as jnp
import numpy as np

from qtx.anatomy import Role
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import at_least
from qtx.parts import Part
from qtx.quantization.methods.base import Method

SITES = (Part.EMBEDDED, Part.RESIDUAL, Part.NORM, Part.BRANCH, Part.CONTEXT, Part.HIDDEN)
# Those that follow the last norm too: OPT-350m's projection, BERT's transform, ViT's classifier. A tied head has none.
KERNELS = (Part.QUERY, Part.KEY, Part.VALUE, Part.PREACTIVATION, Part.BRANCH, Part.PROJECTED, Part.HEAD)


@dataclasses.dataclass(frozen=True)
class Hadamard(Method):
    """Randomized Hadamard rotations, as in QuaRot (Ashkboos et al. 2024): x W = (x R) (R^T W), R orthogonal, R =
    diag(signs) H / sqrt(D). Each entry of x R is a mean of all of x with random signs: an outlier dimension is spread
    over D entries, and the largest of |x R| is about ||x|| / sqrt(D) times a logarithm.

    There is one R for each width: the residual stream's (sums, LayerNorms, what the branches add), the context's, and
    that of the MLP's hidden activations; the kernels that multiply these are rotated too. Queries, keys and values,
    scores and probabilities (whose dimensions are heads and positions), the embedding tables and the gates are not.

    QuaRot rotates the network itself. This works for RMSNorm alone, which commutes with R; so QuaRot first folds a
    LayerNorm's scale into the next kernels, and its mean into the kernels before it. Here every site enters the basis,
    is rounded, and leaves again (`qtx.quantization.basis`): the floating-point function is the same for any R, and
    nothing needs folding. In integers this costs more than QuaRot: an online transform, O(D log D) a token, stands
    between a product in the basis and a LayerNorm, another term of a residual sum, a gate or an activation function;
    QuaRot has one only before the second MLP kernel and the attention's output. The method bounds what rotation
    can do for the accuracy of these models, also of post-LN models, which QuaRot's folding cannot rotate.

    Attributes:
      seed: seed of the random signs.
    """

    makes = ("rotation",)

    seed: Annotated[int, at_least(0)] = 0

    def find_bases(self, problem):
        anatomy = problem.anatomy
        places = {site.path: (site.leading, site.features) for site in anatomy.sites_of(SITES)}
        for path, kernel in anatomy.parameters.items():
            if kernel.role is Role.KERNEL and kernel.part in KERNELS:
                places[path] = anatomy.leading(path), kernel.shape[0]
        if not places:
            raise QtxError(
                "hadamard finds nothing to rotate: no module of this model declares what it computes, see qtx.parts; "
                "choose another method, such as gptq"
            )
        rotations = {size: jnp.asarray(rotation(size, self.seed)) for _, size in places.values()}
        return {
            path: {"rotation": jnp.broadcast_to(rotations[size], (*leading, size, size))}
            for path, (leading, size) in places.items()
        }


def rotation(size: int, seed: int) -> np.ndarray:
    """Makes a random orthogonal matrix `[size, size]`, float32: diag(signs) (H_{2^k} (x) B), normalized.

    B is the smallest Hadamard matrix of Paley's first construction (1, 12, 20, 24, 44, ...) such that size = 2^k times
    B's order. If there is none, B is a random orthogonal matrix, and its order the odd part of size. So 768 is 64 * 12,
    and 100 is 4 * 25 with a random B, since 5 is no power of 2 in 5 * 20.
    """
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], size)
    odd = size
    while odd % 2 == 0:
        odd //= 2
    orders = [odd * 2**k for k in range(size.bit_length()) if size % (odd * 2**k) == 0]
    order = next((order for order in orders if order == 1 or is_paley(order)), None)
    if order is None:
        order = odd
        base = np.linalg.qr(rng.normal(size=(odd, odd)))[0]
    else:
        base = paley(order) / np.sqrt(order)
    result = np.ones((1, 1))
    for _ in range((size // order).bit_length() - 1):
        result = np.kron(result, np.array([[1.0, 1.0], [1.0, -1.0]]) / np.sqrt(2))
    return (signs[:, None] * np.kron(result, base)).astype(np.float32)


def is_paley(order: int) -> bool:
    """Says whether order - 1 is a prime that is 3 modulo 4."""
    q = order - 1
    return q % 4 == 3 and all(q % divisor for divisor in range(2, int(q**0.5) + 1))


def paley(order: int) -> np.ndarray:
    """Makes the Hadamard matrix of `order`, 1 or q + 1 for a prime q = 3 modulo 4 (Paley 1933): I + S, S skew, made of
    the quadratic residues: S_ij = 1 if i - j is a square modulo q, else -1."""
    if order == 1:
        return np.ones((1, 1))
    q = order - 1
    squares = {i * i % q for i in range(1, q)}
    residue = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
    skew = np.zeros((order, order))
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = residue[np.subtract.outer(np.arange(q), np.arange(q)) % q]
    return np.eye(order) + skew
