"""Patients whose outliers are elsewhere than a real one's: `python -m experiments.plant PLACE FOLDER`.

Each is `builtin:minilm-2l` whose own disease is clipped away (kernels and tables within 5 root mean squares of
themselves), with another in its place. `docs/healing.md` has what `qtx heal` makes of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from experiments.bad_input import told_in_a_line
from qtx.builtin import builtin_checkpoint
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import write_whole

HEALTHY = 5.0
LAYER = "encoder.layer.0."
Tensors = dict[str, np.ndarray]


def idle_unit(tensors: Tensors) -> int:
    """The hidden unit of the feed-forward network that says least."""
    return int(np.argmin(np.square(tensors[LAYER + "output.dense.weight"]).sum(axis=0)))


def separator(tensors: Tensors) -> None:
    """[SEP] alone has an enormous feed-forward output: one feature tells it from all other tokens, and fires a unit."""
    vocabulary = (builtin_checkpoint("minilm-2l") / "vocab.txt").read_text(encoding="utf-8").splitlines()
    words, unit, feature, dimension = tensors["embeddings.word_embeddings.weight"], idle_unit(tensors), 77, 200
    words[vocabulary.index("[SEP]"), feature] += 300 * words.std()
    inner, outer = (tensors[f"{LAYER}{name}.dense.weight"] for name in ("intermediate", "output"))
    inner[unit], outer[:, unit] = 0, 0
    inner[unit, feature], tensors[LAYER + "intermediate.dense.bias"][unit] = 1, -4
    outer[dimension, unit] = 40


def every_token(tensors: Tensors) -> None:
    """Every token has an enormous feed-forward output: a unit always fires, and the norm behind makes up for it."""
    unit, dimension, size, rest = idle_unit(tensors), 123, 200.0, 0.6
    tensors[LAYER + "intermediate.dense.weight"][unit], tensors[LAYER + "intermediate.dense.bias"][unit] = 0, 5
    outer, scale = (tensors[f"{LAYER}output.{name}.weight"] for name in ("dense", "LayerNorm"))
    outer[:, unit], outer[dimension, unit] = 0, size / 5
    louder = np.sqrt(1 + size**2 / len(scale) / rest**2)
    scale *= louder
    scale[dimension] /= 10 * louder


def key(tensors: Tensors) -> None:
    """One dimension of the keys of each layer is a hundred times as large, and that of the queries as small: the same
    function."""
    for layer, dimension in ((0, 40), (1, 333)):
        for name in ("weight", "bias"):
            tensors[f"encoder.layer.{layer}.attention.self.key.{name}"][dimension] *= 100
            tensors[f"encoder.layer.{layer}.attention.self.query.{name}"][dimension] /= 100


PLACES: dict[str, Callable[[Tensors], None]] = {"separator": separator, "every_token": every_token, "key": key}


def healthy(tensors: Tensors) -> Tensors:
    """The tensors in float32, kernels and tables clipped."""

    def clipped(x: np.ndarray) -> np.ndarray:
        limit = HEALTHY * np.sqrt(np.square(x).mean())
        return np.clip(x, -limit, limit) if x.ndim == 2 else x

    floats = {name: x.astype(np.float32) for name, x in tensors.items() if x.dtype == np.float16}
    return tensors | {name: clipped(x) for name, x in floats.items()}


@told_in_a_line("plant")
def main(arguments: list[str] | None = None) -> int:
    """Writes a patient; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", choices=PLACES, help="where the outliers are to be")
    parser.add_argument("folder", type=Path, help="where to write the checkpoint")
    options = parser.parse_args(arguments)
    if options.folder.exists():
        raise QtxError(f"{options.folder} is there: choose another folder")
    base = builtin_checkpoint("minilm-2l")
    tensors = healthy(load_file(base / "model.safetensors"))
    PLACES[options.place](tensors)
    shutil.copytree(base, options.folder, ignore=shutil.ignore_patterns("*.md", "__pycache__"))
    write_whole({options.folder / "model.safetensors": save(tensors, {"format": "pt"})})
    print(f"{options.folder}: outliers at {options.place}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
