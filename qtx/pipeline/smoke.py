"""A smoke test is any experiment at a small size: what `--config=FILE:smoke` runs.

It takes the same code paths in under a minute on a laptop: the model's family, attention and precision, the objective,
the augmentation, optimizer, schedule and quantization stay; sizes and steps are these; built-in data replace fetched
data.
"""

from __future__ import annotations

import copy

from ml_collections import ConfigDict

from qtx.data import OBJECTIVES, VOCABULARIES
from qtx.data.config import SOURCE
from qtx.experiment import read
from qtx.families import FAMILIES
from qtx.foundation.config import section
from qtx.models import FROM_DATA
from qtx.training import MeshConfig

STEPS, WARMUP_STEPS = 20, 2
SEQUENCE_LENGTH = 32
MODEL = {
    **{"num_layers": 2, "width": 32, "mlp_width": 64, "max_length": SEQUENCE_LENGTH},
    **{"num_heads": 2, "num_kv_heads": 1, "head_dim": 16},
    **dict.fromkeys(FROM_DATA),
}
TEXT = {"sequence_length": SEQUENCE_LENGTH, "min_length": None}
OF_THE_IMAGES = {"image_size", "channels", "mean", "std"}
"""Data options that a model with random parameters takes over from the built-in images."""
VOCABULARY = 512
NEEDS_NO_FILES = ("stdlib", "stdlib_labels", "digits", "photographs", "bigram_backcopy")
TEACHER = "builtin:minilm-2l"


def smoke(config: ConfigDict) -> ConfigDict:
    """Returns the experiment at a small size, named `<name>_smoke`.

    A run that starts from another, which has the full size, starts from random parameters here, without
    quantization-aware training; a run that learns from its start learns from the built-in model and has its sizes.

    Raises:
      QtxError: as `qtx.experiment.read`, for a config that is wrong at its full size.
    """
    full, small = read(config), copy.deepcopy(config)
    taught, steps = OBJECTIVES[full.objective].taught, min(STEPS, full.training.steps)
    small.name, small.start = f"{full.name}_smoke", TEACHER if taught else ""
    if not taught:
        sizes = MODEL | FAMILIES[full.family].small(full.model, MODEL)
        small.model.update({name: size for name, size in sizes.items() if name in small.model})
    if warmup := full.model.attention.normalizer.warmup:
        small.model.attention[warmup] = min(full.model.attention.normalizer.warmup_steps, steps)

    if full.data.name not in NEEDS_NO_FILES:
        small.data.source = OBJECTIVES[full.objective].built_in_sources[full.model.reads]
    taken = set(SOURCE.options(small.data.source))
    small.data.update({name: size for name, size in TEXT.items() if name in taken})
    if "tokenizer" in taken:
        small.data.vocab_size = VOCABULARY
    if small.data.tokenizer not in VOCABULARIES:  # but a file
        taken -= {"tokenizer"}
    if not taught:
        taken -= OF_THE_IMAGES
    small.data.update({name: None for name in small.data if name not in {"source", *taken}})

    small.training.update({name: max(1, steps // 2) for name in small.training if name.endswith("_every")})
    small.training.steps, small.training.batch_size = steps, 8
    small.training.warmup_steps = min(full.training.warmup_steps, WARMUP_STEPS)
    small.training.accumulation_steps = min(full.training.accumulation_steps, 2)
    small.mesh = section(MeshConfig())
    small.quantization.schemes = full.quantization.schemes[:2]
    small.quantization.calibration_batches, small.quantization.sensitivity_batches = 2, 1
    small.qat.scheme = ""
    small.compare.seeds = full.compare.seeds[:1]
    return small.lock()
