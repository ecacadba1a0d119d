"""The effect itself, in minutes: a six-layer post-LN BERT on 20 million tokens of books, 262 million tokens a variant.

What Bondarenko et al. (2023) show after days of training (their figures 6 and 7), at the smallest size and on the least
data that one GPU takes minutes for. Needs books as text files under `data/books/train` and `data/books/valid`, and
bert-base-uncased's vocabulary:

    qtx compare --config=configs/bert_books.py --workdir=runs/bert_books \
        --config.data.tokenizer=data/bert-base-uncased --config.model.dtype=bfloat16

Cost: on one H100 alone some 1.4 million tokens/s, 3 min a variant after about a minute of compiling; the three side by
side, beside other trainings, took 16 min.
Expected: seed 0, infinity norm and kurtosis after 8,000 steps: softmax 41 and 66, clipped 3.7 and 4.0, gated 3.2 and
3.4; held-out perplexity 28.0, 28.9 and 28.0 (the first 8 batches). Quantized: not measured.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("bert", variant)
    config.name = "bert_books"

    config.model.num_layers, config.model.width = 6, 512
    config.model.num_heads, config.model.mlp_width = 8, 2048
    config.model.max_length = 128
    config.model.dropout = config.model.attention_dropout = 0.0  # each of 20 passes masks other words

    config.data.source = "text_corpus"
    config.data.corpora = ("data/books/train",)
    config.data.validation_corpora = ("data/books/valid",)
    config.data.tokenizer = "data/bert-base-uncased"
    config.data.sequence_length = 128

    config.training.steps = 8_000
    config.training.batch_size = 256
    config.training.learning_rate = 5e-4
    config.training.warmup_steps = 800
    config.training.eval_batches = 8
    config.training.log_every = 100
    config.training.eval_every = 2_000
    config.training.outliers_every = 500
    config.training.checkpoint_every = 8_000

    config.quantization.schemes = ("w8a8", "w6a6")
    config.compare.variants = (
        "softmax",
        "clipped_softmax,alpha=4,gamma_warmup_steps=1200",
        "gated_linear,gate_pi=0.25",
    )
    config.compare.seeds = (0,)
    return config
