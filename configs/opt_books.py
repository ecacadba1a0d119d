"""A decoder with repaired clipping: an OPT of 64 million parameters on books, 66 million tokens a variant.

The paper's clipped softmax fails on causal models; `alpha_visible` clips each row by the keys that it sees. Needs books
as text files under `data/books/train` and `data/books/valid`, and the folder of OPT's vocab.json and merges.txt:

    qtx compare --config=configs/opt_books.py --workdir=runs/opt_books \
        --config.data.tokenizer=data/opt --config.model.dtype=bfloat16

Cost: not measured.
Expected: not measured.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("opt", variant)
    config.name = "opt_books"

    config.model.num_layers, config.model.width = 12, 512
    config.model.num_heads, config.model.mlp_width = 8, 2048
    config.model.vocab_size = 50272
    config.model.max_length = 256
    config.model.init_std = 0.02
    config.model.dropout = config.model.attention_dropout = 0.0

    config.data.source = "text_corpus"
    config.data.corpora = ("data/books/train",)
    config.data.validation_corpora = ("data/books/valid",)
    config.data.tokenizer = "data/opt"
    config.data.sequence_length = 256

    config.training.steps = 4_000
    config.training.batch_size = 64
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 400
    config.training.beta1, config.training.beta2 = 0.9, 0.95
    config.training.weight_decay = 0.1
    config.training.decay_norm_scale = True
    config.training.eval_batches = 16
    config.training.log_every = 100
    config.training.eval_every = 1_000
    config.training.outliers_every = 500
    config.training.checkpoint_every = 4_000

    config.quantization.schemes = ("w8a8", "w6a6")
    config.compare.variants = (
        "softmax",
        "clipped_softmax,alpha=12,gamma_warmup_steps=500",
        "clipped_softmax_visible,alpha_visible=2,gamma_warmup_steps=500",
        "gated_linear,gate_pi=0.25",
    )
    config.compare.seeds = (0,)
    return config
