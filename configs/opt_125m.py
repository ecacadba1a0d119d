"""OPT-125m as the paper trains it (Bondarenko et al. 2023, appendix C): causal language modelling, 125,000 steps.

The paper's data are BookCorpus and English Wikipedia (wiki40b); any text files will do. Needs text in
`config.data.files` and `config.data.validation_files` and the folder of OPT's vocab.json and merges.txt in
`config.data.tokenizer`:

    qtx train --config=configs/opt_125m.py:gated_linear --workdir=runs/opt_125m --config.data.tokenizer=data/opt \
        --config.data.files="('data/train/*.txt',)" --config.data.validation_files="('data/validation/*.txt',)"

Cost: about 54 hours on one A100 (the paper's table 11); not measured here.
Expected: the paper's tables 2 and 6, perplexity in floating point -> W8A8: softmax 15.96 -> 39.46, clipped softmax
16.29 -> 37.20, gated 15.55 -> 16.02, all three with weight decay on the LayerNorm scales as here; not measured here."""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("opt", variant)  # OPT-125m's shape is the family's default
    config.name = "opt_125m"

    config.data.source = "text_files"
    config.data.files = ("data/train/*.txt",)
    config.data.validation_files = ("data/validation/*.txt",)
    config.data.tokenizer = "data/opt"
    config.data.sequence_length = 512

    config.training.steps = 125_000
    config.training.batch_size = 192
    config.training.learning_rate = 4e-4
    config.training.warmup_steps = 2_000
    config.training.beta2 = 0.95
    config.training.weight_decay = 0.1
    # The paper's cures decay the LayerNorm scales and its published baseline does not. Here every variant does.
    config.training.decay_norm_scale = True
    config.training.log_every = 100
    config.training.eval_every = 5_000
    config.training.checkpoint_every = 2_500

    config.quantization.weight_estimator = "mse"
    config.compare.variants = ("softmax", "clipped_softmax,alpha=12", "gated_linear,gate_pi=0.25")
    config.compare.seeds = (0, 1)
    return config
