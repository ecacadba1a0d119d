"""BERT-base as the paper trains it (Bondarenko et al. 2023, appendix C): masked language modelling, a million steps.

The paper's data are BookCorpus and English Wikipedia (wiki40b); any text files will do. Needs text in
`config.data.files` and `config.data.validation_files` and the bert-base-uncased vocabulary in
`config.data.tokenizer`:

    qtx train --config=configs/bert_base.py:gated_mlp --workdir=runs/bert_base --config.data.tokenizer=data/vocab.txt \
        --config.data.files="('data/train/*.txt',)" --config.data.validation_files="('data/validation/*.txt',)"

Cost: about 93 hours on one A100 (the paper's table 11); not measured here.
Expected: the paper's table 2, perplexity in floating point -> W8A8: softmax 4.49 -> 1294, clipped softmax 4.39 ->
4.52, gated 4.45 -> 4.65; not measured here."""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("bert", variant)  # BERT-base's shape is the family's default
    config.name = "bert_base"

    config.data.source = "text_files"
    config.data.files = ("data/train/*.txt",)
    config.data.validation_files = ("data/validation/*.txt",)
    config.data.tokenizer = "data/vocab.txt"
    config.data.sequence_length = 128

    config.training.steps = 1_000_000
    config.training.batch_size = 256
    config.training.learning_rate = 1e-4
    config.training.warmup_steps = 10_000
    config.training.weight_decay = 0.01
    config.training.log_every = 500
    config.training.eval_every = 20_000
    config.training.checkpoint_every = 5_000

    config.compare.variants = ("softmax", "clipped_softmax,alpha=None,gamma=-0.025", "gated_mlp,gate_pi=0.5")
    config.compare.seeds = (0, 1)
    return config
