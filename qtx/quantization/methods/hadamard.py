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
    diag(signs) H, H from `qtx.quantization.hadamard_matrix`. Each entry of x R is a mean of all of x with random signs:
    an outlier dimension is spread over D entries, and the largest of |x R| is about ||x|| / sqrt(D) times a logarithm.

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

    makes = ("hadamard",)

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
        signs = {size: jnp.asarray(random_signs(size, self.seed)) for _, size in places.values()}
        return {
            path: {"hadamard": jnp.broadcast_to(signs[size], (*leading, size))}
            for path, (leading, size) in places.items()
        }


def random_signs(size: int, seed: int) -> np.ndarray:
    """Draws `[size]` of 1 and -1, float32."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], size).astype(np.float32)
