"""A BERT small enough to train, quantize and compare on a laptop: the subject of the quantization table.

Masked language modelling on the prose of Python's own help topics and docstrings; softmax, clipped softmax and gated
attention, two seeds each, every bit-width with both weight estimators and three calibration seeds.

    python -m experiments.table10 --workdir=runs/tiny_bert
    qtx compare --config=configs/tiny_bert.py --workdir=runs/tiny_bert

Cost: 3 to 5 minutes a run on one busy CPU core, and about 1.5 seconds a measurement of the table (150 of them).
Expected: perplexity 156 (softmax), 158 (clipped softmax), 155 (gated) in floating point and at W8A8; W4A8 with min-max
weights 163, 163, 160, with MSE 159, 161, 158; W6A6 157, 159, 156 (`experiments/results/tiny_bert`). The model has
only begun to use context after 1,200 steps (token frequencies alone: perplexity 251).
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("bert", variant)
    config.name = "tiny_bert"

    config.model.num_layers = 3
    config.model.width = 64
    config.model.num_heads = 2
    config.model.mlp_width = 256
    config.model.max_length = 64
    config.model.init_std = 0.125  # 1 / sqrt(width): from 0.04, masked words stay at their unigram frequencies
    config.model.dropout = 0.0
    config.model.attention_dropout = 0.0

    config.data.source = "stdlib"
    config.data.sequence_length = 64
    config.data.vocab_size = 512

    config.training.steps = 1200
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 120
    config.training.eval_every = 400
    config.training.checkpoint_every = 1200

    config.quantization.schemes = ("w8a8", "w6a8", "w4a8", "w6a6")
    config.compare.variants = ("softmax", "clipped_softmax,alpha=2,gamma_warmup_steps=400", "gated_linear")
    config.compare.seeds = (0, 1)
    return config
