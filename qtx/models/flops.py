"""Floating-point operations that a training step needs, from the model's shape alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qtx.models.block import TransformerConfig


def step_flops(config: TransformerConfig, batch: Mapping[str, Any]) -> int:
    """Model FLOPs of one training step: three times those of the forward pass's matrix products.

    As in PaLM (Chowdhery et al. 2022, appendix B), a multiplication and an addition are two operations, attention
    counts its whole T x T products, also where a causal mask hides half of them, and recomputation, elementwise work,
    embedding look-ups and the optimizer do not count. The head counts where it is computed: at the predicted positions
    (masked language modelling), at all tokens, or at the class token.

    Args:
      config: of any registered family, with the sizes that the data decide filled in.
      batch: arrays, or anything with their `.shape`: `tokens` `[B, T]` with `positions` `[B, P]` if only those are
        predicted, or `images` `[B, H, W, C]`.
    """
    sizes: Any = config  # the families' own fields
    if "images" in batch:
        examples, height, width, channels = batch["images"].shape
        patches = (height // sizes.patch_size) * (width // sizes.patch_size)
        length = patches + 1
        around = 2 * patches * sizes.patch_size**2 * channels * config.width + 2 * config.width * sizes.num_classes
    else:
        examples, length = batch["tokens"].shape
        if "positions" in batch:
            # BERT's head transforms before it decodes.
            around = 2 * batch["positions"].shape[1] * config.width * (config.width + sizes.vocab_size)
        else:
            narrow = getattr(config, "embedding_width", None) or config.width
            projections = 2 * narrow * config.width if narrow != config.width else 0
            around = 2 * length * (projections + narrow * sizes.vocab_size)
    return 3 * examples * (config.num_layers * _block_flops(config, length) + around)


def _block_flops(config: TransformerConfig, length: int) -> int:
    """Of one block on one example."""
    width = config.width
    projections = 2 * length * 4 * width**2
    attention = 2 * 2 * length**2 * width
    mlp = 2 * 2 * length * width * config.mlp_width
    gate = config.attention.make_gate()
    shapes = {} if gate is None else gate.shapes(config.num_heads, width // config.num_heads)
    # Every entry of a gate's kernels meets each token once.
    gates = 2 * length * sum(int(np.prod(shape)) for name, shape in shapes.items() if "kernel" in name)
    return projections + attention + mlp + gates
