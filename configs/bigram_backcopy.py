"""Bigram-Backcopy: the attention sink, and how gates and clipping do without it.

A synthetic language in which one head must act at some tokens and rest at all others (Guo et al. 2024). A tiny pre-LN
model with one head a layer.

    qtx compare --config=configs/bigram_backcopy.py --workdir=runs/bigram_backcopy

Cost: 7 min for the four variants of one seed on one CPU core.
Expected: seed 0: perplexity 8.75 with softmax, 8.76 clipped, 8.75 gated, 10.7 with none; at W8A4 12.5, 13.4, 11.4
and 11.9 (`experiments/results/bigram_backcopy`). Softmax heads leave the token they park on a value .58 as long as the
others' (gated: .96). At W8A4 softmax ends above the model that cannot attend at all, the gate below it.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("opt", variant)
    config.name = "bigram_backcopy"

    config.model.num_layers = 3
    config.model.width = 64
    config.model.num_heads = 1
    config.model.mlp_width = 256
    config.model.max_length = 32
    config.model.init_std = 0.125  # 1 / sqrt(width): attention starts off the uniform distribution
    config.model.dropout = 0.0
    config.model.attention_dropout = 0.0

    config.data.source = "bigram_backcopy"
    config.data.sequence_length = 32

    config.training.steps = 1500
    config.training.batch_size = 64
    config.training.learning_rate = 2e-3
    config.training.warmup_steps = 100
    config.training.eval_every = 500
    config.training.checkpoint_every = 500

    config.quantization.schemes = ("w8a8", "w8a6", "w8a5", "w8a4")
    config.quantization.weight_estimator = "mse"
    # At this size alpha = 4 starts with 17 % of the attention rows dead, alpha = 2 with almost none.
    config.compare.variants = ("softmax", "clipped_softmax,alpha=2", "gated_linear", "none")
    return config
