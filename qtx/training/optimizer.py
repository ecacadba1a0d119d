"""Optimizers of optax by name, all called with the same hyper-parameters, of which each takes those that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from qtx.attention.parameters import NORMALIZER

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
    ) -> optax.GradientTransformation: ...


def adamw(
    learning_rate: optax.Schedule, *, beta1: float, beta2: float, epsilon: float, weight_decay: float, mask: DecayMask
) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov & Hutter 2019), the paper's optimizer."""
    return optax.adamw(learning_rate, beta1, beta2, epsilon, weight_decay=weight_decay, mask=mask)


def lamb(
    learning_rate: optax.Schedule, *, beta1: float, beta2: float, epsilon: float, weight_decay: float, mask: DecayMask
) -> optax.GradientTransformation:
    """Returns LAMB (You et al. 2020), for BERT in batches of tens of thousands."""
    return optax.chain(
        optax.scale_by_adam(beta1, beta2, epsilon),
        optax.add_decayed_weights(weight_decay, mask),
        layer_by_layer(optax.scale_by_trust_ratio()),
        optax.scale_by_learning_rate(learning_rate),
    )


def lion(
    learning_rate: optax.Schedule, *, beta1: float, beta2: float, weight_decay: float, mask: DecayMask, **_: Any
) -> optax.GradientTransformation:
    """Returns Lion (Chen et al. 2023), which has one moment and wants a third to a tenth of AdamW's learning rate."""
    return optax.lion(learning_rate, beta1, beta2, weight_decay=weight_decay, mask=mask)


def adafactor(
    learning_rate: optax.Schedule, *, weight_decay: float, mask: DecayMask, **_: Any
) -> optax.GradientTransformation:
    """Returns Adafactor (Shazeer & Stern 2018) without a first moment. Second moments are kept as rows and columns, so
    that the state takes almost no memory. Weights decay as AdamW's do."""
    return optax.chain(
        scale_by_factored_rms_of_layers(),
        layer_by_layer(optax.clip_by_block_rms(1.0)),
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


def layer_by_layer(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a stateless transformation of tensors to each layer of a stacked parameter `[L, ...]` by itself: the norm
    or root mean square is that of a layer, as if the layers were not stacked."""

    def update(updates, state, params):
        def of_leaf(path, update, param):
            def of_tensor(update, param):
                return transformation.update(update, transformation.init(param), param)[0]

            return (jax.vmap(of_tensor) if is_stacked(path) else of_tensor)(update, param)

        return jax.tree_util.tree_map_with_path(of_leaf, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_factored_rms_of_layers() -> optax.GradientTransformation:
    """Returns `optax.scale_by_factored_rms`, made never to factor the axis of the layers: it factors a tensor's two
    longest axes if both have 128 entries or more, and more than there are layers."""

    def of(params):
        leaves = jax.tree_util.tree_leaves_with_path(params)
        depth = max((leaf.shape[0] for path, leaf in leaves if is_stacked(path)), default=0)
        return optax.scale_by_factored_rms(min_dim_size_to_factor=max(128, depth + 1))

    return optax.GradientTransformation(
        lambda params: of(params).init(params),
        lambda updates, state, params: of(params).update(updates, state, params),
    )


SHRINK = 0.05
"""The largest share by which `clip_weights` lowers a tensor's largest weights at one update."""


def clip_weights(limit: float, mask: DecayMask) -> optax.GradientTransformation:
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

    return optax.masked(layer_by_layer(optax.stateless(clip)), mask)


def is_stacked(path: Sequence[Any]) -> bool:
    """Says whether the parameter at a path of a tree has a leading layer axis: whether it belongs to the scanned
    `layers`, or to their quantizers."""
    return any(key.key == "layers" for key in path[:-1])


# A new optimizer is a function and a line here.
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": adamw,
    "lamb": lamb,
    "lion": lion,
    "adafactor": adafactor,
    "sgd": sgd,
}


DECAYED = ("kernel", "embedding")


def decay_mask(params: Any, decay_norm_scale: bool) -> Any:
    """Returns a tree like `params`, True for every parameter that decays.

    Kernels and embedding tables always decay, LayerNorm scales (`scale`) by choice (the paper's appendix C). Nothing
    else does: neither biases, ViT's class token and position embeddings (as in timm, with which the paper trains it),
    normalizers' parameters, whatever their names (sink logits), nor the `ranges` of quantization-aware training.
    """

    def decays(path, _):
        name = path[-1].key
        if path[0].key == "ranges" or NORMALIZER in [key.key for key in path]:
            return False
        return decay_norm_scale if name == "scale" else name.endswith(DECAYED)

    return jax.tree_util.tree_map_with_path(decays, params)
