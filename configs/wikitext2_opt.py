"""A small pre-LN OPT on WikiText-2: two million words of Wikipedia articles.

Needs the tokenized WikiText-2 files (Merity et al. 2016; wikitext-2-v1.zip), plain, .gz or .xz, in
`config.data.files` and `config.data.validation_files`.

    qtx compare --config=configs/wikitext2_opt.py --workdir=runs/wikitext2_opt

Cost: about 35 minutes a run on one busy CPU core (1,500 steps, one epoch).
Expected: softmax, seed 0: validation perplexity 137.2 (loss 4.92; a unigram model's is 6.54, perplexity 690),
W8A8 137.4, W6A8 138.0, W6A6 141.2, W4A8 144.3 (`experiments/results/wikitext2_opt`).
"""

from ml_collections import ConfigDict

from qtx.experiment import default

FOLDER = "../shared/data/wikitext-2"


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("opt", variant)
    config.name = "wikitext2_opt"

    config.model.num_layers = 4
    config.model.width = 128
    config.model.num_heads = 4
    config.model.mlp_width = 512
    config.model.max_length = 64
    config.model.init_std = 0.09  # 1 / sqrt(width): attention starts off the uniform distribution
    config.model.dropout = 0.0  # one to two passes over the data leave nothing to regularize
    config.model.attention_dropout = 0.0

    config.data.source = "text_files"
    config.data.files = (f"{FOLDER}/train.txt.xz",)
    config.data.validation_files = (f"{FOLDER}/valid.txt.xz",)
    config.data.document_separator = r"^ = [^=].* = $"  # an article's title
    config.data.sequence_length = 64
    config.data.vocab_size = 4096

    config.training.steps = 1500
    config.training.batch_size = 32
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 150
    config.training.beta2 = 0.95
    config.training.weight_decay = 0.1
    config.training.decay_norm_scale = True  # as the paper's cures have it
    config.training.eval_every = 300
    config.training.checkpoint_every = 150

    config.quantization.schemes = ("w8a8", "w6a8", "w4a8", "w6a6")
    config.quantization.weight_estimator = "mse"
    config.compare.variants = ("softmax", "gated_linear")
    config.compare.seeds = (0,)
    return config
