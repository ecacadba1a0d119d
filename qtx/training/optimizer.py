"""Optimizers of optax by name, all called with the same hyper-parameters, of which each takes those that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from qtx.anatomy import Parameter, Role
from qtx.parts import Part

Parameters = Mapping[str, Parameter]
"""A description of each parameter that is trained, by path."""

# Parameters -> a tree like them, True where weights decay.
DecayMask = Callable[[Any], Any]


class Optimizer(Protocol):
    """A function of hyper-parameters, explained at `qtx.training.TrainingConfig`, that returns an optimizer."""

    def __call__(
        self,
        learning_rate: optax.Schedule,
        *,
        beta1: float,
        beta2: float,
        epsilon: float,
        weight_decay: float,
        mask: DecayMask,
        parameters: Parameters,
    ) -> optax.GradientTransformation: ...


def adamw(
    learning_rate: optax.Schedule,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    mask: DecayMask,
    **_: Any,
) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov & Hutter 2019), the paper's optimizer."""
    return optax.adamw(learning_rate, beta1, beta2, epsilon, weight_decay=weight_decay, mask=mask)


def lamb(
    learning_rate: optax.Schedule,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    mask: DecayMask,
    parameters: Parameters,
) -> optax.GradientTransformation:
    """Returns LAMB (You et al. 2020), for BERT in batches of tens of thousands."""
    return optax.chain(
        optax.scale_by_adam(beta1, beta2, epsilon),
        optax.add_decayed_weights(weight_decay, mask),
        layer_by_layer(optax.scale_by_trust_ratio(), parameters),
        optax.scale_by_learning_rate(learning_rate),
    )


def lion(
    learning_rate: optax.Schedule, *, beta1: float, beta2: float, weight_decay: float, mask: DecayMask, **_: Any
) -> optax.GradientTransformation:
    """Returns Lion (Chen et al. 2023), which has one moment and wants a third to a tenth of AdamW's learning rate."""
    return optax.lion(learning_rate, beta1, beta2, weight_decay=weight_decay, mask=mask)


def adafactor(
    learning_rate: optax.Schedule, *, weight_decay: float, mask: DecayMask, parameters: Parameters, **_: Any
) -> optax.GradientTransformation:
    """Returns Adafactor (Shazeer & Stern 2018) without a first moment. Second moments are kept as rows and columns, so
    that the state takes almost no memory. Weights decay as AdamW's do."""
    return optax.chain(
        scale_by_factored_rms_of_layers(parameters),
        layer_by_layer(optax.clip_by_block_rms(1.0), parameters),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def sgd(
    learning_rate: optax.Schedule, *, beta1: float, weight_decay: float, mask: DecayMask, **_: Any
) -> optax.GradientTransformation:
    """Returns stochastic gradient descent with momentum `beta1` and decoupled weight decay."""
    return optax.chain(
        optax.trace(beta1),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


MUON_RMS = 0.2
"""The root mean square of Muon's updates at a learning rate of 1, about that of AdamW's (Liu et al. 2025, eq. 4)."""


def muon(
    learning_rate: optax.Schedule,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    mask: DecayMask,
    parameters: Parameters,
) -> optax.GradientTransformation:
    """Returns Muon (Jordan et al. 2024) for the kernels of the layers, each layer's a matrix of its own, and AdamW for
    embedding tables, heads, biases, norms and all else. Both take AdamW's learning rate (`MUON_RMS`) and `beta1`."""

    def dimensions(params):
        def of(path, _):
            skipped = 1 if is_stacked(path, parameters) else 0
            return optax.contrib.MuonDimensionNumbers(skipped, skipped + 1)

        return jax.tree_util.tree_map_with_path(of, params)

    def labels(params):
        def of(path, _):
            parameter = parameters[path_of(path)]
            matrix = parameter.role is Role.KERNEL and len(parameter.shape) == 2
            return "muon" if matrix and parameter.part not in (Part.EMBEDDED, Part.PROJECTED, Part.HEAD) else "adamw"

        return jax.tree_util.tree_map_with_path(of, params)

    def of_one_size(updates, _):
        def of(path, update):
            return update * MUON_RMS * max(parameters[path_of(path)].shape) ** 0.5

        return jax.tree_util.tree_map_with_path(of, updates)

    orthogonal = optax.chain(
        optax.contrib.scale_by_muon(beta=beta1, weight_dimension_numbers=dimensions), optax.stateless(of_one_size)
    )
    return optax.chain(
        optax.partition({"muon": orthogonal, "adamw": optax.scale_by_adam(beta1, beta2, epsilon)}, labels),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def layer_by_layer(
    transformation: optax.GradientTransformation, parameters: Parameters
) -> optax.GradientTransformation:
    """Applies a stateless transformation of tensors to each layer of a stacked parameter `[L, ...]` by itself: the norm
    or root mean square is that of a layer, as if the layers were not stacked."""

    def update(updates, state, params):
        def of_leaf(path, update, param):
            def of_tensor(update, param):
                return transformation.update(update, transformation.init(param), param)[0]

            return (jax.vmap(of_tensor) if is_stacked(path, parameters) else of_tensor)(update, param)

        return jax.tree_util.tree_map_with_path(of_leaf, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_factored_rms_of_layers(parameters: Parameters) -> optax.GradientTransformation:
    """Returns `optax.scale_by_factored_rms`, made never to factor the axis of the layers: it factors a tensor's two
    longest axes if both have 128 entries or more, and more than there are layers."""

    depth = max((parameter.stack.depth for parameter in parameters.values() if parameter.stack), default=0)
    return optax.scale_by_factored_rms(min_dim_size_to_factor=max(128, depth + 1))


SHRINK = 0.05
"""The largest share by which `clip_weights` lowers a tensor's largest weights at one update."""


def clip_weights(limit: float, mask: DecayMask, parameters: Parameters) -> optax.GradientTransformation:
    """Keeps the weights of each layer's tensor within `limit` times its root mean square, where `mask` is True.

    After an update w becomes clip(w, -c, c) with c = max(limit rms(w), 0.95 max |w|): larger weights shrink from update
    to update, slowly enough that training can make up for it. A penalty could not do that: Adam moves every
    weight by about the learning rate, and the feed-forward kernels that make outliers hold weights of 100 root mean
    squares and more, which cost an 8-bit grid from minimum to maximum most of its points.
    """

    def clip(updates, params):
        def of_tensor(update, param):
            after = param + update
            largest, rms = jnp.abs(after).max(), jnp.sqrt(jnp.square(after).mean())
            bound = jnp.maximum(limit * rms, (1 - SHRINK) * largest)
            return jnp.clip(after, -bound, bound) - param

        return jax.tree.map(of_tensor, updates, params)

    return optax.masked(layer_by_layer(optax.stateless(clip), parameters), mask)


def path_of(keys: Sequence[Any]) -> str:
    """Returns the path that the keys of a parameter's place in a tree spell."""
    return "/".join(key.key for key in keys)


def is_stacked(keys: Sequence[Any], parameters: Parameters) -> bool:
    """Says whether the parameter at a place of a tree has a leading layer axis."""
    return parameters[path_of(keys)].stack is not None


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

    def mask(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda keys, _: parameters[path_of(keys)].role in roles, params)

    return mask
