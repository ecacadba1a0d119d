"""How fast data is prepared and read, beside what the smallest model consumes.

    python -m benchmarks.input_pipeline --text=FOLDER --images=FOLDER --tokenizers=FOLDER [--output=FILE]

Text: `text_corpus` on FOLDER, prepared anew (tokenized by BERT's vocabulary and OPT's, packed, written), then read
as training reads it, shuffled, T 128, batch 64. Images: `image_corpus` on FOLDER at 224 x 224, batch 64, as evaluation
sees them and as ViT training does (random resized crop, flip, Mixup). The consumer is `configs/tiny_bert.py` at T 128,
whose rate its own log tells. Reading and training use the same cores, so the ratio of their rates is how many times
faster the data come than the model could take them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks.timing import output_file
from configs import tiny_bert
from qtx.data import Data, DataConfig, load, prepare_data
from qtx.data.sources import ImageCorpus, TextCorpus
from qtx.experiment import read
from qtx.foundation.hardware import cpu_cores
from qtx.pipeline.assemble import assemble
from qtx.pipeline.train import train
from qtx.training import read_metrics

LENGTH, BATCH = 128, 64
WARMUP_BATCHES, BATCHES = 20, 200
IMAGE_BATCHES = 12
TRAINING_STEPS = 60
IMAGE_OPTIONS: dict[str, Any] = dict(image_size=224, random_resized_crop=True, flip=True, mixup=0.2)


def rows_per_second(data: Data, batches: int) -> float:
    """Rows that the training iterator gives in a second, in steady state."""
    iterator = data.train(BATCH, seed=0)
    for _ in itertools.islice(iterator, min(WARMUP_BATCHES, batches)):
        pass
    began = time.perf_counter()
    for _ in itertools.islice(iterator, batches):
        pass
    return batches * BATCH / (time.perf_counter() - began)


def measure_text(corpus: Path, tokenizers: Path, folder: Path) -> dict[str, float]:
    """Tokens a second of preparing and of reading, masked and causal."""
    found = {}
    for objective, vocabulary in (("mlm", "bert-base-uncased"), ("clm", "opt")):
        config = DataConfig(
            TextCorpus(
                corpora=(str(corpus),),
                tokenizer=str(tokenizers / vocabulary),
                sequence_length=LENGTH,
                data_dir=str(folder),
            )
        )
        (written,) = prepare_data(config, objective)
        tokens = sum(state["tokens"] for state in written.splits.values())
        found[f"{objective} prepare, tokens/s"] = tokens / (written.seconds or 0)
        found[f"{objective} read, tokens/s"] = LENGTH * rows_per_second(load(config, objective), BATCHES)
    return found


def measure_images(corpus: Path, folder: Path) -> dict[str, float]:
    """Images a second, with and without the augmentation's cost."""
    found = {}
    for name, options in (("plain", {"image_size": 224}), ("augmented", IMAGE_OPTIONS)):
        config = DataConfig(ImageCorpus(corpus=str(corpus), data_dir=str(folder), **options))
        found[f"images read {name}, images/s"] = rows_per_second(load(config, "classification"), IMAGE_BATCHES)
    return found


def consumed(folder: Path) -> float:
    """Tokens a second that training takes of `configs/tiny_bert.py` at T 128."""
    config = tiny_bert.get_config()
    config.data.sequence_length = config.model.max_length = LENGTH
    config.training.steps, config.training.warmup_steps = TRAINING_STEPS, 1
    config.training.log_every = TRAINING_STEPS // 2
    config.training.eval_every = config.training.checkpoint_every = TRAINING_STEPS
    train(assemble(read(config)), folder / "run")
    return read_metrics(folder / "run", "train")[-1]["tokens_per_second"]


def summarize(found: Mapping[str, float], tiny: float) -> dict[str, dict[str, float]]:
    """Rates, and for text how many times what the tiny model consumes."""
    return {
        name: {"rate": round(rate), **({"ratio": round(rate / tiny, 2)} if "tokens" in name else {})}
        for name, rate in found.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Prints a table of rates and ratios to the tiny model's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a folder of text")
    parser.add_argument("--images", type=Path, required=True, help="a folder of <split>/<class>/ images")
    parser.add_argument("--tokenizers", type=Path, required=True, help="a folder with bert-base-uncased/ and opt/")
    parser.add_argument("--output", type=output_file, help="write the numbers as JSON")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny = consumed(folder)
        found = measure_text(options.text, options.tokenizers, folder) | measure_images(options.images, folder)
    result = {"tiny BERT trains on, tokens/s": {"rate": round(tiny), "ratio": 1.0}} | summarize(found, tiny)
    for name, row in result.items():
        ratio = f"{row['ratio']:>8.2f} x" if "ratio" in row else ""
        print(f"{name:<34} {row['rate']:>12,} {ratio}")
    if options.output:
        facts = {"device": jax.devices()[0].device_kind, "cores": cpu_cores(), "batch": BATCH}
        options.output.write_text(json.dumps(facts | {"results": result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
