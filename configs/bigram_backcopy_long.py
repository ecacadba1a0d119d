"""Bigram-Backcopy, twenty times as long: which mechanism still has sinks and outliers when training goes on.

    qtx compare --config=configs/bigram_backcopy_long.py --workdir=runs/bigram_backcopy_long

The model, data and schedule are those of `bigram_backcopy.py`, for 30,000 steps.

Cost: 9 min a run on an idle CPU core, 5 h for all.
Expected: seed 0 (`experiments/results/bigram_backcopy_long`): perplexity 8.59 for softmax, gated_linear, sink and
gated_elementwise, 10.5 for none; largest value 134, 111, 91, 101 and 67; W8A4 18.3, 74.1, 25.3, 15.9 and 12.3, with
ranges per token 9.16, 9.00, 9.03, 9.06 and 11.0. W8A4 of softmax1 28.4, of normalized_clipped_softmax 18.0, of
clipped_softmax_visible 16.9 with alpha_visible .5 and 20.3 with 2, of clipped_softmax 15.1, of gated_headwise 53.6.
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
