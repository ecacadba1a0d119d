"""Fine-tuning: an encoder that somebody has pre-trained learns, with a new head, whether a movie review is positive.

Needs the reviews (Maas et al. 2011, aclImdb) as tables without a header, plain, .gz, .xz or .zst, each line a review's
`neg` or `pos`, its number, its rating and its text, in `config.data.files` and `config.data.validation_files`; and the
encoder, a folder in Hugging Face's format or the built-in one, cut from all-MiniLM-L6-v2:

    qtx import builtin:minilm-2l --workdir=runs/minilm-2l
    qtx train --config=configs/imdb_bert.py --config.start=runs/minilm-2l --workdir=runs/imdb_bert
    qtx quantize --workdir=runs/imdb_bert

Cost: one epoch of 780 steps; not measured.
Expected: not measured.
"""

from ml_collections import ConfigDict

from qtx.experiment import default

FOLDER = "../shared/data/imdb"


def get_config(variant: str = "softmax") -> ConfigDict:
    config = default("bert", variant)  # the encoder's shape is that of the start
    config.name = "imdb_bert"
    config.objective = "sequence_classification"
    config.model.head = "classification"

    config.data.source = "text_labels"
    config.data.files = (f"{FOLDER}/imdb.train.tsv.xz",)
    config.data.validation_files = (f"{FOLDER}/imdb.test.tsv.xz",)
    config.data.label_column = "0"
    config.data.text_column = "3"
    config.data.sequence_length = 128

    config.training.steps = 780  # an epoch
    config.training.batch_size = 32
    config.training.learning_rate = 2e-4
    config.training.warmup_steps = 80
    config.training.eval_batches = 100
    config.training.eval_every = 260
    config.training.checkpoint_every = 130
    config.training.outliers_every = 390
    config.training.best_metric = "accuracy"

    config.quantization.schemes = ("w8a8",)
    return config
