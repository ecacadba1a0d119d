"""A smoke test is any experiment at a small size: what `--config=FILE:smoke` runs.

It takes the same code paths in under a minute on a laptop: the model's family, attention and precision, the objective,
the augmentation, optimizer, schedule and quantization stay; sizes and steps shrink; built-in data replace fetched data.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from qtx.attention import AttentionConfig
from qtx.data import OBJECTIVES, VOCABULARIES, DataConfig
from qtx.data.config import SOURCE
from qtx.experiment import from_record, read, record
from qtx.families import family_of
from qtx.foundation.config import flattened, read_section
from qtx.models import FROM_DATA, TransformerConfig
from qtx.quantization.qat.config import QatConfig
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.penalties import complete_text, make_penalties

STEPS = 20
BATCH_SIZE = 8
SEQUENCE_LENGTH = 32
VOCABULARY = 512
LAYERS, NUM_HEADS, HEAD_WIDTH = 2, 2, 16
NEEDS_NO_FILES = ("stdlib", "stdlib_labels", "digits", "photographs", "bigram_backcopy")
TEACHER = "builtin:minilm-2l"
OF_THE_IMAGES = ("image_size", "channels", "mean", "std")
"""Data options that a model with random parameters takes over from the built-in images."""
NOT_OF_THE_RUN = ("accumulation_steps", "max_bad_steps")


def smoke(config: ConfigDict) -> ConfigDict:
    """Returns the experiment at a small size, named `<name>_smoke`.

    A run that starts from another, which has the full size, starts from random parameters here, without
    quantization-aware training; a run that learns from its start learns from the built-in model and has its sizes.

    Raises:
      QtxError: as `qtx.experiment.read`, for a config that is wrong at its full size.
    """
    full = read(config)
    steps = min(STEPS, full.training.steps)
    taught = OBJECTIVES[full.objective].taught
    # The attention as the user asked for it: a length that comes from the full experiment is not the smoke test's.
    asked = read_section(AttentionConfig, config.model.attention, "config.model.attention")
    attention = _small_attention(asked, steps / full.training.steps)
    small = dataclasses.replace(
        full,
        name=f"{full.name}_smoke",
        model=dataclasses.replace(full.model if taught else _small_model(full.model), attention=attention),
        start=TEACHER if taught else "",
        data=_small_data(full.data, full.objective, full.model.reads),
        training=_short_training(full.training, steps),
        mesh=MeshConfig(),
        quantization=dataclasses.replace(
            full.quantization, schemes=full.quantization.schemes[:2], calibration_batches=2, sensitivity_batches=1
        ),
        qat=QatConfig(noise=full.qat.noise),
        compare=dataclasses.replace(full.compare, seeds=full.compare.seeds[:1]),
    )
    return from_record(record(small), "the smoke test").lock()


def _small_attention(attention: AttentionConfig, shorter: float) -> AttentionConfig:
    normalizer = attention.normalizer
    normalizer = normalizer.with_warmup(_shortened(normalizer.warmup_steps, shorter))
    return dataclasses.replace(attention, normalizer=normalizer)


def _small_model(model: TransformerConfig) -> TransformerConfig:
    heads = min(model.num_heads, NUM_HEADS)
    width = heads * min(model.width // model.num_heads, HEAD_WIDTH)
    sizes: dict[str, Any] = {
        "num_layers": min(model.num_layers, LAYERS),
        "num_heads": heads,
        "width": width,
        "mlp_width": max(1, width * model.mlp_width // model.width),
        "max_length": SEQUENCE_LENGTH,
        "num_kv_heads": 1,
        "head_dim": HEAD_WIDTH,
        **dict.fromkeys(FROM_DATA),
    }
    names = {field.name for field in dataclasses.fields(model)}
    sizes = {name: size for name, size in sizes.items() if name in names}
    return dataclasses.replace(model, **sizes, **family_of(model).small(model, sizes))


def _small_data(data: DataConfig, objective: str, reads: str) -> DataConfig:
    source = data.name if data.name in NEEDS_NO_FILES else OBJECTIVES[objective].built_in_sources[reads]
    options = {option: value for option, value in flattened(data).items() if option in SOURCE.options(source)}
    if "sequence_length" in options:
        options["sequence_length"] = min(options["sequence_length"] or SEQUENCE_LENGTH, SEQUENCE_LENGTH)
    if "tokenizer" in options:
        trained = options["tokenizer"] in VOCABULARIES
        options |= {"tokenizer": options["tokenizer"] if trained else None, "vocab_size": VOCABULARY}
    if "min_length" in options:
        options["min_length"] = None
    if not OBJECTIVES[objective].taught:
        options |= {option: None for option in OF_THE_IMAGES if option in options}
    if options.get("random_crop"):
        options["random_crop"] = 1
    return DataConfig(SOURCE.make("source", source, options))


def _short_training(training: TrainingConfig, steps: int) -> TrainingConfig:
    """Shortens training to `steps`: warm-ups keep their share, and what happens at intervals happens twice."""
    changes: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(training)):
        if name.endswith("_every"):
            changes[name] = max(1, steps // 2)
        elif name.endswith("_steps") and name not in NOT_OF_THE_RUN:
            changes[name] = _shortened(getattr(training, name), steps / training.steps)
    penalties = [
        dataclasses.replace(penalty, anneal_steps=_shortened(penalty.anneal_steps, steps / training.steps))
        for penalty in make_penalties(training.penalties).values()
    ]
    changes["penalties"] = tuple(map(complete_text, penalties))
    return dataclasses.replace(
        training, steps=steps, batch_size=BATCH_SIZE, accumulation_steps=min(training.accumulation_steps, 2), **changes
    )


def _shortened(steps: int, shorter: float) -> int:
    return max(1, int(steps * shorter)) if steps else 0
