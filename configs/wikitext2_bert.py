"""A small post-LN BERT on WikiText-2: two million words of Wikipedia articles.

Needs the tokenized WikiText-2 files (Merity et al. 2016; wikitext-2-v1.zip), plain, .gz or .xz, in
`config.data.files` and `config.data.validation_files`.

    qtx compare --config=configs/wikitext2_bert.py --workdir=runs/wikitext2_bert

Cost: about 40 minutes a run on one busy CPU core (3,000 steps, four epochs; 147 blocks a second on a free one).
Expected: softmax, seed 0: validation perplexity 59.8 (loss 4.09; a unigram model: 6.38, 592),
W8A8 59.9, W6A8 60.2, W6A6 61.7, W4A8 63.4 (`experiments/results/wikitext2_bert`).
"""

from ml_collections import ConfigDict

from qtx.experiment import default

FOLDER = "../shared/data/wikitext-2"


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("bert", variant)
    config.name = "wikitext2_bert"

    config.model.num_layers = 4
    config.model.width = 128
    config.model.num_heads = 4
    config.model.mlp_width = 512
    config.model.max_length = 64
    config.model.init_std = 0.09  # 1 / sqrt(width): at 0.02 clipped softmax starts, and stays, dead
    config.model.dropout = 0.0  # a few passes over the data leave little to regularize
    config.model.attention_dropout = 0.0

    config.data.source = "text_files"
    config.data.files = (f"{FOLDER}/train.txt.xz",)
    config.data.validation_files = (f"{FOLDER}/valid.txt.xz",)
    config.data.document_separator = r"^ = [^=].* = $"  # an article's title
    config.data.sequence_length = 64
    config.data.vocab_size = 4096

    config.training.steps = 3000
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 300
    config.training.eval_every = 600
    config.training.checkpoint_every = 300

    config.quantization.schemes = ("w8a8", "w6a8", "w4a8", "w6a6")
    config.compare.variants = ("softmax", "gated_linear")
    config.compare.seeds = (0,)
    return config
