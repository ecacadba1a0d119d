"""Optimizers of optax by name, all made from the same hyper-parameters, of which each takes those that it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from qtx.anatomy import Parameter, Role
from qtx.parts import Part

Parameters = Mapping[str, Parameter]
"""A description of each parameter that is trained, by path."""

# Parameters -> a tree like them, True where weights decay.
DecayMask = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class HyperParameters:
    """`HyperParameters` are given to every optimizer, which uses those that it has.

    Attributes:
      learning_rate: the schedule.
      beta1, beta2, epsilon, weight_decay: as in `qtx.training.TrainingConfig`.
      mask: which weights decay.
      parameters: what is known of each parameter that is trained, by path.
    """

    learning_rate: optax.Schedule
    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    mask: DecayMask
    parameters: Parameters

    def descent(self, *direction: optax.GradientTransformation) -> optax.GradientTransformation:
        """Returns the optimizer that goes down a direction, with decoupled weight decay, at the learning rate."""
        decay = optax.add_decayed_weights(self.weight_decay, self.mask)
        return optax.chain(*direction, decay, optax.scale_by_learning_rate(self.learning_rate))


Optimizer = Callable[[HyperParameters], optax.GradientTransformation]


def adamw(h: HyperParameters) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov & Hutter 2019), the paper's optimizer."""
    return h.descent(optax.scale_by_adam(h.beta1, h.beta2, h.epsilon))


def lamb(h: HyperParameters) -> optax.GradientTransformation:
    """Returns LAMB (You et al. 2020), for BERT in batches of tens of thousands."""
    return optax.chain(
        optax.scale_by_adam(h.beta1, h.beta2, h.epsilon),
        optax.add_decayed_weights(h.weight_decay, h.mask),
        layer_by_layer(optax.scale_by_trust_ratio(), h.parameters),
        optax.scale_by_learning_rate(h.learning_rate),
    )


def lion(h: HyperParameters) -> optax.GradientTransformation:
    """Returns Lion (Chen et al. 2023), which has one moment and wants a third to a tenth of AdamW's learning rate."""
    return h.descent(optax.scale_by_lion(h.beta1, h.beta2))


def adafactor(h: HyperParameters) -> optax.GradientTransformation:
    """Returns Adafactor (Shazeer & Stern 2018) without a first moment. Second moments are kept as rows and columns, so
    that the state takes almost no memory. Weights decay as AdamW's do."""
    clipped = layer_by_layer(optax.clip_by_block_rms(1.0), h.parameters)
    return h.descent(scale_by_factored_rms_of_layers(h.parameters), clipped)


def sgd(h: HyperParameters) -> optax.GradientTransformation:
    """Returns stochastic gradient descent with momentum `beta1` and decoupled weight decay."""
    return h.descent(optax.trace(h.beta1))


MUON_RMS = 0.2
"""The root mean square of Muon's updates at a learning rate of 1, about that of AdamW's (Liu et al. 2025, eq. 4)."""


def muon(h: HyperParameters) -> optax.GradientTransformation:
    """Returns Muon (Jordan et al. 2024) for the kernels of the layers, each layer's a matrix of its own, and AdamW for
    embedding tables, heads, biases, norms and all else. Both take AdamW's learning rate (`MUON_RMS`) and `beta1`."""

    def dimensions(parameter, _):
        skipped = 1 if parameter.stack else 0
        return optax.contrib.MuonDimensionNumbers(skipped, skipped + 1)

    def label(parameter, _):
        matrix = parameter.role is Role.KERNEL and len(parameter.shape) == 2
        return "muon" if matrix and parameter.part not in (Part.EMBEDDED, Part.PROJECTED, Part.HEAD) else "adamw"

    def of_one_size(parameter, update):
        return update * MUON_RMS * max(parameter.shape) ** 0.5

    orthogonal = optax.contrib.scale_by_muon(
        beta=h.beta1, weight_dimension_numbers=lambda params: each(dimensions, h.parameters, params)
    )
    scaled = optax.stateless(lambda updates, _: each(of_one_size, h.parameters, updates))
    adam = optax.scale_by_adam(h.beta1, h.beta2, h.epsilon)
    parts = {"muon": optax.chain(orthogonal, scaled), "adamw": adam}
    return h.descent(optax.partition(parts, lambda params: each(label, h.parameters, params)))


def each(function: Callable[..., Any], parameters: Parameters, *trees: Any) -> Any:
    """Maps a function over trees like the trained parameters, giving it what is known of each parameter first."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, *leaves: function(parameters["/".join(key.key for key in keys)], *leaves), *trees
    )


def layer_by_layer(
    transformation: optax.GradientTransformation, parameters: Parameters
) -> optax.GradientTransformation:
    """Applies a stateless transformation of tensors to each layer of a stacked parameter `[L, ...]` by itself: the norm
    or root mean square is that of a layer, as if the layers were not stacked."""

    def of_tensor(update, param):
        return transformation.update(update, transformation.init(param), param)[0]

    def of_parameter(parameter, update, param):
        return (jax.vmap(of_tensor) if parameter.stack else of_tensor)(update, param)

    return optax.stateless(lambda updates, params: each(of_parameter, parameters, updates, params))


def scale_by_factored_rms_of_layers(parameters: Parameters) -> optax.GradientTransformation:
    """Returns `optax.scale_by_factored_rms`, made never to factor the axis of the layers: it factors a tensor's two
    longest axes if both have 128 entries or more, and more than there are layers."""
    depth = max((parameter.stack.depth for parameter in parameters.values() if parameter.stack), default=0)
    return optax.scale_by_factored_rms(min_dim_size_to_factor=max(128, depth + 1))


SHRINK = 0.05
"""The largest share by which `clip_weights` lowers a tensor's largest weights at one update."""


def clip_weights(
    limit: float, mask: DecayMask, parameters: Parameters, shrink: float = SHRINK
) -> optax.GradientTransformation:
    """Keeps the weights of each layer's tensor within `limit` times its root mean square, where `mask` is True.

    After an update w becomes clip(w, -c, c) with c = max(limit rms(w), (1 - shrink) max |w|): larger weights shrink
    from update to update, slowly enough that training can make up for it. A penalty could not do that: Adam moves every
    weight by about the learning rate, and the feed-forward kernels that make outliers hold weights of 100 root mean
    squares and more, which cost an 8-bit grid from minimum to maximum most of its points.
    """

    def clip(update, param):
        after = param + update
        largest, rms = jnp.abs(after).max(), jnp.sqrt(jnp.square(after).mean())
        bound = jnp.maximum(limit * rms, (1 - shrink) * largest)
        return jnp.clip(after, -bound, bound) - param

    return optax.masked(layer_by_layer(optax.stateless(clip), parameters), mask)


def limited(params: Any, limit: float, parameters: Parameters) -> Any:
    """Returns parameters whose weights are within a limit as of `clip_weights`, at once."""
    clipping = clip_weights(limit, decay_mask(parameters, decay_norm_scale=False), parameters, shrink=1.0)
    updates, _ = clipping.update(jax.tree.map(jnp.zeros_like, params), clipping.init(params), params)
    return optax.apply_updates(params, updates)


# A new optimizer is a function and a line here.
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": adamw,
    "lamb": lamb,
    "lion": lion,
    "adafactor": adafactor,
    "sgd": sgd,
    "muon": muon,
}


DECAYED = (Role.KERNEL, Role.GATE, Role.TABLE)


def decay_mask(parameters: Parameters, decay_norm_scale: bool) -> DecayMask:
    """Makes the mask that is True for every parameter that decays.

    Kernels, those of gates too, and embedding tables always do, the scales of norms by choice (the paper's appendix C);
    nothing else: biases, ViT's class token and position embeddings (as in timm, with which the paper trains it), what
    normalizers learn (the logits of sinks), and the learned ranges of quantization-aware training.
    """
    roles = (*DECAYED, Role.SCALE) if decay_norm_scale else DECAYED
    return lambda params: each(lambda parameter, _: parameter.role in roles, parameters, params)
