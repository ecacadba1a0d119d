"""Bigram-Backcopy, twenty times as long: which mechanism still has sinks and outliers when training goes on.

    qtx compare --config=configs/bigram_backcopy_long.py --workdir=runs/bigram_backcopy_long

The model, data and schedule are those of `bigram_backcopy.py`, for 30,000 steps.

Cost: 9 min a run on an idle CPU core, 5 h for all.
Expected: seed 0, softmax and gated_linear (`experiments/results/bigram_backcopy_long`): perplexity 8.59 for both;
largest value 134 and 111; W8A4 18.3 and 74.1, with ranges per token 9.16 and 9.00. The others: not measured yet.
"""

from ml_collections import ConfigDict

from qtx.experiment import get_config_beside

get_base = get_config_beside(__file__, "bigram_backcopy.py")


def get_config(variant: str = "softmax") -> ConfigDict:
    config = get_base(variant)
    config.name = "bigram_backcopy_long"

    config.training.steps = 30_000
    config.training.log_every = 500
    config.training.eval_every = 5000
    config.training.outliers_every = 2500
    config.training.checkpoint_every = 5000

    config.compare.variants = (
        "softmax",
        "gated_linear",
        "sink",
        "softmax1",
        "clipped_softmax,alpha=2",
        "clipped_softmax_visible,alpha_visible=0.5",
        "clipped_softmax_visible,alpha_visible=2,gamma_warmup_steps=3000",
        "normalized_clipped_softmax",
        "gated_headwise",
        "gated_elementwise",
        "none",
    )
    return config
