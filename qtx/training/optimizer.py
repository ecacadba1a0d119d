"""AdamW with the paper's decay masks and gradient clipping."""

from __future__ import annotations

from typing import Any

import jax
import optax

from qtx.training.config import TrainingConfig
from qtx.training.schedules import learning_rate_schedule


def decay_mask(params: Any, decay_norm_scale: bool) -> Any:
    """True for every parameter that decays, as a tree like `params`.

    Biases never do; LayerNorm scales (`scale`) only by choice; kernels and embeddings always (the paper's appendix C).
    Of quantization-aware training's parameters, the learned `ranges` never do.
    """

    def decays(path, _):
        name = path[-1].key
        if path[0].key == "ranges":
            return False
        return decay_norm_scale if name == "scale" else not name.endswith("bias")

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW (Loshchilov & Hutter 2019) on the configured schedule."""
    adamw = optax.adamw(
        learning_rate_schedule(config),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        mask=lambda params: decay_mask(params, config.decay_norm_scale),
    )
    if config.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
