"""BERT-6L, the paper's model for its ablations (Bondarenko et al. 2023, section 5): six layers on WikiText-103.

Needs the WikiText-103 files (Merity et al. 2016; wikitext-103-raw-v1.zip) as `data/wikitext-103/wiki.train.txt` and
`wiki.valid.txt`, and bert-base-uncased's vocabulary:

    qtx train --config=configs/bert_6l.py:clipped_softmax,alpha=4 --workdir=runs/bert_6l \
        --config.data.tokenizer=data/bert-base-uncased/vocab.txt

Cost: not measured here, nor told by the paper; steps, batch and layers are each half of `bert_base`'s.
Expected: the paper's figures 6 and 7: clipped softmax with alpha = 2 to 4 removes the outliers at every sequence length
from 32 to 256, and so do gates that begin .25 to .9 open; not measured here. The variants differ in the attention
alone: they are matched.
"""

from ml_collections import ConfigDict

from qtx.experiment import default


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("bert", variant)
    config.name = "bert_6l"

    config.model.num_layers = 6

    config.data.source = "text_corpus"
    config.data.corpora = ("data/wikitext-103/wiki.train.txt",)
    config.data.validation_corpora = ("data/wikitext-103/wiki.valid.txt",)
    config.data.document_separator = r"^ = [^=].* = $"  # an article's title
    config.data.tokenizer = "data/bert-base-uncased/vocab.txt"
    config.data.sequence_length = 128
    config.data.mask_probability = 0.15

    config.training.steps = 500_000
    config.training.batch_size = 128
    config.training.learning_rate = 1e-4
    config.training.schedule = "linear"
    config.training.warmup_steps = 10_000
    config.training.beta1, config.training.beta2 = 0.9, 0.999
    config.training.weight_decay = 0.01
    config.training.clip_norm = 1.0
    config.training.log_every = 500
    config.training.eval_every = 10_000
    config.training.outliers_every = 10_000
    config.training.checkpoint_every = 5_000

    config.compare.variants = ("softmax", "clipped_softmax,alpha=4", "gated_linear,gate_pi=0.25")
    config.compare.seeds = (0, 1)
    return config
