"""A small decoder after Llama on books, with grouped heads.

Needs books as text files under `data/books/train` and `data/books/valid`:

    qtx compare --config=configs/llama_tiny_books.py --workdir=runs/llama_tiny_books

Cost: not measured.
Expected: not measured.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("llama", variant)
    config.name = "llama_tiny_books"

    config.model.num_layers, config.model.width = 4, 128
    config.model.num_heads, config.model.num_kv_heads = 4, 2
    config.model.mlp_width = 384
    config.model.max_length = 64
    config.model.init_std = 0.09  # 1 / sqrt(width): attention starts off the uniform distribution

    config.data.source = "text_corpus"
    config.data.corpora = ("data/books/train",)
    config.data.validation_corpora = ("data/books/valid",)
    config.data.sequence_length = 64
    config.data.vocab_size = 4096

    config.training.steps = 500
    config.training.batch_size = 32
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 50
    config.training.beta2 = 0.95
    config.training.weight_decay = 0.1
    config.training.eval_every = 250
    config.training.checkpoint_every = 250

    config.quantization.schemes = ("w8a8", "w6a6")
    config.compare.variants = ("softmax", "gated_linear")
    config.compare.seeds = (0,)
    return config
