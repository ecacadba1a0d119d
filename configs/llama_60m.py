"""A decoder after Llama of 57 million parameters, with the data and training of `opt_125m`.

Books as text files under `data/bookcorpus`, TFDS's `wiki40b/en` in `config.data.data_dir`, and the folder of a
vocab.json and merges.txt:

    qtx train --config=configs/llama_60m.py:gated_linear,gate_pi=0.25 --workdir=runs/llama_60m \
        --config.data.tokenizer=data/opt --config.model.dtype=bfloat16

Cost: not measured.
Expected: not measured.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("llama", variant)
    config.name = "llama_60m"

    config.model.num_layers, config.model.width = 10, 512
    config.model.num_heads, config.model.num_kv_heads = 8, 4
    config.model.mlp_width = 1536
    config.model.vocab_size = 50272  # OPT's 50,265 tokens, padded as its published table is
    config.model.max_length = 512
    config.model.rotary_base = 10_000.0

    config.data.source = "text_corpus"
    config.data.corpora = ("data/bookcorpus/**/*.txt", "tfds:wiki40b/en")
    config.data.validation_corpora = ("tfds:wiki40b/en",)
    config.data.tokenizer = "data/opt"
    config.data.sequence_length = 512

    config.training.steps = 30_000
    config.training.batch_size = 192
    config.training.learning_rate = 1e-3
    config.training.warmup_steps = 2_000
    config.training.beta1, config.training.beta2 = 0.9, 0.95
    config.training.weight_decay = 0.1
    config.training.clip_norm = 1.0
    config.training.log_every = 100
    config.training.eval_every = 5_000
    config.training.outliers_every = 5_000
    config.training.checkpoint_every = 2_500

    config.quantization.weight_estimator = "mse"
    config.compare.variants = ("softmax", "clipped_softmax_visible,alpha_visible=2", "gated_linear,gate_pi=0.25")
    config.compare.seeds = (0,)
    return config
