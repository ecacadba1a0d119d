"""QuaRot: the residual stream of a model, and its parameters with it, in a rotated basis."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from qtx.anatomy import Anatomy, Parameter, Role, read
from qtx.attention.gates import PerHeadGate
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import at_least
from qtx.parts import Part
from qtx.quantization.basis import Basis, enter
from qtx.quantization.hadamard_matrix import transform
from qtx.quantization.methods.base import Method
from qtx.quantization.methods.hadamard import random_signs
from qtx.quantization.plan import flatten


@dataclasses.dataclass(frozen=True)
class Quarot(Method):
    """QuaRot's rotations of a model itself (Ashkboos et al. 2024, section 4), with R = diag(signs) H as in `hadamard`:

    1. The norms' scales g move into the kernels that read the norms. Without a scale, x / rms(x) commutes with R; so
       the residual stream is x R everywhere: embedding tables T become T R, kernels that write into the stream W R
       (their biases b R), and kernels that read it, the head's too, R^T diag(g) W.
    2. Values leave their kernel rotated head by head, so the context is, too, and the next kernel takes it back (not if
       the attention has a gate, which may multiply single dimensions).
    3. Context and hidden activations, which the last kernels of the branches read, are quantized in a rotated basis.
    4. So are queries and keys after their rotary positions, head by head; their products stay what they are.

    1 and 2 change parameters alone, and the floating-point function is the same. 3 and 4 cost an online transform each,
    and nothing else does, other than with `hadamard`. A tied head becomes one of its own, as the last norm's scale is
    in the head and not in the table. The method is for decoders whose blocks begin with RMSNorms: the scale of a norm
    after a branch or a sum would stand between the rotation and the next sum, and a LayerNorm also takes a mean away.

    Attributes:
      seed: seed of the random signs.
    """

    makes = ("rotation", "hadamard")

    seed: Annotated[int, at_least(0)] = 0

    def rewrite(self, module, params):
        check(module)
        module = module.clone(config=dataclasses.replace(module.config, tied=False))
        anatomy, config = read(module, module.config.example()), module.config
        flat, stream = dict(flatten(params)), self._hadamard(config.width)
        table, head = _the_only(anatomy, Role.TABLE, Part.OTHER), _the_only(anatomy, Role.KERNEL, Part.HEAD)
        flat.setdefault(head.path, flat[table.path].T)
        flat[table.path] = enter(flat[table.path], stream)
        for layer, (origin, *_) in anatomy.operands.of.items():
            kernel, bias = anatomy.kernel_of(layer), f"{layer}/bias"
            if kernel is None:
                continue
            assert origin is not None and origin.site is not None, "each kernel of a decoder reads a site"
            w, source = flat[kernel.path], anatomy.sites[origin.site].part
            if source is Part.NORM:
                w = w * (config.norm_offset + flat[f"{origin.site}/scale"])[..., None]
            if source in (Part.NORM, Part.RESIDUAL):
                w = _rows(w, stream)
            if kernel.part is Part.VALUE and config.attention.gate is None:
                of_heads = self._by_head(kernel.shape[1], config.head_size)
                w = enter(w, of_heads)
                flat |= {bias: enter(flat[bias], of_heads)} if bias in flat else {}
            if source is Part.CONTEXT and config.attention.gate is None:
                w = _rows(w, self._by_head(kernel.shape[0], config.head_size))
            if kernel.part is Part.BRANCH:
                w = enter(w, stream)
                flat |= {bias: enter(flat[bias], stream)} if bias in flat else {}
            flat[kernel.path] = w
        for path, one in anatomy.parameters.items():
            if one.role is Role.SCALE and one.part is Part.NORM:
                flat[path] = jnp.full_like(flat[path], 1 - config.norm_offset)
            if one.role is Role.PREFIX and path.endswith("/value") and config.attention.gate is None:
                flat[path] = flat[path] @ self._of_head(config.head_size)
        return module, traverse_util.unflatten_dict(flat, sep="/")

    def find_bases(self, problem):
        anatomy, size = problem.anatomy, problem.module.config.head_size
        of_sites = {site.path: site.features for site in anatomy.sites_of((Part.CONTEXT, Part.HIDDEN))}
        kernels = anatomy.parameters.values()
        of_kernels = {one.path: one.shape[0] for one in kernels if one.role is Role.KERNEL and one.part is Part.BRANCH}
        found = {path: self._hadamard(features) for path, features in {**of_sites, **of_kernels}.items()}
        for site in anatomy.sites_of((Part.QUERY, Part.KEY)):
            if site.path.endswith(("/rotated_query", "/rotated_key")):
                found[site.path] = self._by_head(site.features, size)
        leading = anatomy.leading
        return {
            path: {kind: jnp.broadcast_to(x, (*leading(path), *x.shape)) for kind, x in basis.items()}
            for path, basis in found.items()
        }

    def _hadamard(self, size: int) -> Basis:
        return {"hadamard": jnp.asarray(random_signs(size, self.seed))}

    def _by_head(self, features: int, size: int) -> Basis:
        """Returns the same rotation of each head of a size."""
        return {"rotation": jnp.kron(jnp.eye(features // size), self._of_head(size))}

    def _of_head(self, size: int) -> jax.Array:
        return transform(jnp.diag(jnp.asarray(random_signs(size, self.seed))))


def check(module: nn.Module) -> None:
    """Raises QtxError if a model's residual stream cannot be rotated by its parameters."""
    config: Any = getattr(module, "config", None)
    norm = getattr(config, "norm", "other") if getattr(config, "pre_norm", False) else "other"
    reasons = {
        "its blocks begin with no RMSNorm": norm != "RMSNorm",
        "its branches end in norms": getattr(config, "branch_norms", False),
        "it has no head, and its last hidden states would come out rotated": getattr(config, "head", "none") != "clm",
        "its gate reads each head's slice of the stream": isinstance(
            getattr(getattr(config, "attention", None), "gate", None), PerHeadGate
        ),
    }
    for reason, holds in reasons.items():
        if holds:
            raise QtxError(f"quarot cannot rotate this model, as {reason}: choose hadamard, which rotates each tensor")


def _rows(w: jax.Array, basis: Basis) -> jax.Array:
    """Returns R^T W for a kernel `[D, F]`, or for each of `[L, D, F]`."""
    return jnp.swapaxes(enter(jnp.swapaxes(w, -1, -2), basis), -1, -2)


def _the_only(anatomy: Anatomy, role: Role, part: Part) -> Parameter:
    found = [one for one in anatomy.parameters.values() if (one.role, one.part) == (role, part)]
    assert len(found) == 1, "the model has one table, and one head"
    return found[0]
