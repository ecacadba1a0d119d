"""OPT-350m with the paper's training (Bondarenko et al. 2023, table 3): causal language modelling, 100,000 steps.

Data as in `opt_125m`: TFDS's `wiki40b/en` in `config.data.data_dir`, books under `data/bookcorpus`, OPT's tokenizer.

    qtx train --config=configs/opt_350m.py:gated_linear,gate_pi=0.25 --workdir=runs/opt_350m \
        --config.data.tokenizer=data/opt

The model is the published facebook/opt-350m: post-LN, with embeddings of width 512. The paper gives only layers, heads
and widths, and its official code overrides those of OPT-125m's config, which makes a pre-LN model with the 125m's
embeddings of width 768, projected: `--config.model.pre_norm=True --config.model.embedding_width=768` for that one.
Neither of the paper's two models decays the LayerNorm scales: they are matched as they are.

Cost: not measured here, nor told by the paper.
Expected: the paper's table 3 (the pre-LN model), perplexity in floating point -> W8A8: softmax 13.19 -> 37.52, gated
13.01 -> 14.42; not measured here.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("opt", variant)
    config.name = "opt_350m"

    config.model.num_layers, config.model.width = 24, 1024
    config.model.num_heads, config.model.mlp_width = 16, 4096
    config.model.pre_norm = False
    config.model.embedding_width = 512
    config.model.vocab_size = 50272  # OPT's 50,265 tokens, padded as the published table is
    config.model.max_length = 512
    config.model.init_std = 0.006
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.0  # as in the published models and in the official code

    config.data.source = "text_corpus"
    config.data.corpora = ("data/bookcorpus/**/*.txt", "tfds:wiki40b/en")
    config.data.validation_corpora = ("tfds:wiki40b/en",)
    config.data.tokenizer = "data/opt"
    config.data.sequence_length = 512

    config.training.steps = 100_000
    config.training.batch_size = 264
    config.training.learning_rate = 4e-4
    config.training.schedule = "linear"
    config.training.warmup_steps = 2_000
    config.training.beta1, config.training.beta2 = 0.9, 0.95
    config.training.weight_decay = 0.1
    config.training.decay_norm_scale = False
    config.training.clip_norm = 1.0
    config.training.log_every = 100
    config.training.eval_every = 5_000
    config.training.outliers_every = 5_000
    config.training.checkpoint_every = 2_500

    config.quantization.weight_estimator = "mse"
    config.compare.variants = ("softmax", "gated_linear,gate_pi=0.25")
    config.compare.seeds = (0, 1)
    return config
