"""The demo: attention variants side by side on text that comes with Python, at a size that a laptop trains in
minutes.

A small pre-LN OPT on the prose of Python's own help topics and docstrings, three seeds per variant.

    qtx compare --config=configs/demo.py --workdir=runs/demo

Cost: not measured here.
Expected: not measured here.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("opt", variant)
    config.name = "demo"

    config.model.num_layers = 3
    config.model.width = 64
    config.model.num_heads = 2
    config.model.mlp_width = 256
    config.model.max_length = 64
    config.model.init_std = 0.04  # attention starts near uniform, so clipping is phased in
    config.model.dropout = 0.0
    config.model.attention_dropout = 0.0

    config.data.source = "stdlib"
    config.data.sequence_length = 64
    config.data.vocab_size = 512

    config.training.steps = 600
    config.training.batch_size = 32
    config.training.learning_rate = 2e-3
    config.training.warmup_steps = 60
    config.training.eval_every = 200
    config.training.checkpoint_every = 600

    config.quantization.schemes = ("w8a8", "w8a6", "w8a5", "w8a4")
    config.quantization.weight_estimator = "mse"
    # Attention that starts near uniform is clipped to nothing by any alpha > 1, so gamma grows from 0 over half of it.
    config.compare.variants = ("softmax", "clipped_softmax,alpha=2,gamma_warmup_steps=300", "gated_linear", "none")
    return config
