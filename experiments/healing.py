"""What is left of a sentence encoder after healing, and after its integers: on texts of several lengths.

    python -m experiments.healing runs/minilm runs/healed --calibration books/train/*/*.md --text books/test/*/*.md \\
        --reviews imdb.test.tsv >> experiments/results/healing/minilm.jsonl

The first run is the original, and all is held against its floating point. Ranges are found on texts of all lengths of
the calibration files. A line of the output has a run, a kind of text, a length in tokens, and how the model is
quantized ("fp": not at all), and of 64 texts (32 of the longest):

- `cosine` of the embeddings (as the run's config pools the last hidden states) and `error` of the model's output, which
  is the hidden states, |h - t|^2 / |t|^2, both to the original's in floating point, as means over the texts;
- in floating point, the largest magnitude of a feed-forward output and of a residual sum;
- with `--neighbours`, of 1,000 reviews at 128 tokens: the share of the ten nearest of each, by cosine, that are the
  same as in floating point.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bad_input import told_in_a_line
from qtx.analysis.capture import FloatingPoint
from qtx.data import DataConfig
from qtx.data.config import SOURCE
from qtx.data.reading import lines, read_text
from qtx.data.tokenization import TextTokenizer
from qtx.foundation.config import flattened
from qtx.foundation.errors import QtxError
from qtx.foundation.numbers import fixed
from qtx.losses.divergences import cosine_similarity, relative_error
from qtx.masks import token_mask
from qtx.models.pooling import embedding_of
from qtx.pipeline.lineage import config_of
from qtx.pipeline.run import assemble_run, restore_run
from qtx.quantization import QuantizationConfig, Quantized, calibrate
from qtx.sites import capture
from qtx.training.run_folder import TOKENIZER_OPTIONS

LENGTHS = (32, 128, 512)
TOKENS = 1024
"""Of a batch."""
TEXTS, LONG_TEXTS = 64, 32
CALIBRATION_TEXTS = {32: 64, 128: 64, 512: 16}
REVIEWS, REVIEW_LENGTH, NEAREST = 1000, 128, 10
OUTPUTS, RESIDUALS = "layers/mlp/out", ("layers/attention_residual", "layers/mlp_residual")
# Name to scheme and options: what is asked of a healed model, and what is done without healing.
USUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "w8a8": ("w8a8", {"weight_estimator": "minmax"}),
    "w8a8, mse weights": ("w8a8", {"weight_estimator": "mse"}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "w8a8, mse weights, hadamard": ("w8a8", {"weight_estimator": "mse", "method": "hadamard"}),
    "w8a16, weights per channel": ("w8a16", {"weight_estimator": "minmax", "weight_granularity": "channel"}),
}
Batch = dict[str, np.ndarray]
Model = FloatingPoint | Quantized


def batches(tokenizer: TextTokenizer, texts: Sequence[np.ndarray], length: int) -> list[Batch]:
    """Tokens of texts as batches `[TOKENS / length, length]`, each text cut to the length, within the template; the
    texts have their prompt already."""
    rows = np.full((len(texts), length), tokenizer.pad, np.int32)
    mask = np.zeros((len(texts), length), bool)
    for row, real, text in zip(rows, mask, texts, strict=True):
        whole, _ = tokenizer.template.around([text], length)
        row[: len(whole)], real[: len(whole)] = whole, True
    size = TOKENS // length
    weights = np.ones(len(texts), np.float32)
    full = {"tokens": rows, "mask": mask, "weights": weights}
    if tokenizer.prompt:
        full["prompt"] = np.full(len(texts), tokenizer.prompt_length(length), np.int32)
    return [{name: x[i : i + size] for name, x in full.items()} for i in range(0, len(texts) // size * size, size)]


def cut(tokenizer: TextTokenizer, files: Sequence[str], length: int, number: int) -> list[np.ndarray]:
    """Blocks of `length` - 2 tokens from all over the files, those of the prompt included."""
    prompt = tokenizer.prompt_ids if tokenizer.prompt else np.zeros(0, np.int32)
    inner = length - 2 - len(prompt)
    blocks: list[np.ndarray] = []
    for tokens in tokenizer.encode([read_text(file) for file in files]):
        blocks.extend(tokens[: len(tokens) // inner * inner].reshape(-1, inner))
    if len(blocks) < number:
        raise QtxError(f"the texts have {len(blocks)} blocks of {inner} tokens, expected {number}: give more files")
    chosen = np.random.default_rng(0).permutation(len(blocks))[:number]
    return [np.concatenate([prompt, blocks[i]]) for i in chosen]


def reviews(tokenizer: TextTokenizer, file: str, number: int) -> list[np.ndarray]:
    """Texts from all over a file that has one in a line, in the last of its columns."""
    rows = [line for line in lines(file) if line]
    if len(rows) < number:
        raise QtxError(f"{file} has {len(rows)} lines, expected {number} reviews or more")
    chosen = np.random.default_rng(0).permutation(len(rows))[:number]
    return tokenizer.encode([tokenizer.prompt + rows[i].rpartition("\t")[2] for i in chosen])


@jax.jit
def outputs(model: Model, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The output, usually the last hidden states `[B, T, D]`, embeddings `[B, D]`, and the largest feed-forward output
    and residual sum."""
    real = token_mask(batch, batch["tokens"].shape[1])
    hidden, held = capture(model.apply, {OUTPUTS, *RESIDUALS}, batch, train=False)
    largest = {name: jnp.abs(jnp.where(real[..., None], x, 0)).max() for name, x in held.items()}
    return {
        "hidden": hidden if hidden.ndim == 2 else jnp.where(real[..., None], hidden, 0),
        "embedding": embedding_of(hidden, real, batch, model.module.config),
        "output": largest[OUTPUTS],
        "residual": jnp.maximum(*(largest[name] for name in RESIDUALS)),
    }


def compared(model: Model, of_batches: Sequence[Batch], targets: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the texts, and largest values over all."""
    errors: list[float] = []
    cosines: list[float] = []
    largest = {"output": 0.0, "residual": 0.0}
    for batch, target in zip(of_batches, targets, strict=True):
        found = outputs(model, batch)
        real = token_mask(batch, batch["tokens"].shape[1])[..., None] if found["hidden"].ndim == 3 else True
        errors.extend(np.asarray(relative_error(found["hidden"], target["hidden"], real)))
        cosines.extend(np.asarray(cosine_similarity(found["embedding"], target["embedding"])))
        largest = {name: max(value, float(found[name])) for name, value in largest.items()}
    return {"cosine": float(np.mean(cosines)), "error": float(np.mean(errors)), **largest}


def embeddings(model: Model, of_batches: Sequence[Batch]) -> np.ndarray:
    """`[N, D]`, each of length 1."""
    found = np.concatenate([np.asarray(outputs(model, batch)["embedding"]) for batch in of_batches])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def nearest(of_texts: np.ndarray) -> np.ndarray:
    """The `NEAREST` others of each of the embeddings `[N, D]`, `[N, NEAREST]`."""
    similar = of_texts @ of_texts.T
    np.fill_diagonal(similar, -np.inf)
    return np.argsort(-similar, axis=1, kind="stable")[:, :NEAREST]


def kept(of_texts: np.ndarray, neighbours: np.ndarray) -> float:
    """The share of `neighbours` `[N, NEAREST]` that the embeddings `[N, D]` have too."""
    pairs = zip(nearest(of_texts), neighbours, strict=True)
    return float(np.mean([len(np.intersect1d(own, other)) / NEAREST for own, other in pairs]))


def load(folder: str) -> tuple[FloatingPoint, TextTokenizer]:
    """The model of a run, and its tokenizer."""
    there = config_of(folder)
    # What a run is loaded with cuts none of the texts here; the built-in corpus is at hand.
    options = {name: flattened(there.data).get(name) for name in (*TOKENIZER_OPTIONS, "prompt")}
    data = DataConfig(SOURCE.make("source", "stdlib", {"sequence_length": REVIEW_LENGTH, **options}))
    assembled, _ = assemble_run(dataclasses.replace(there, data=data), Path(folder), names_data=True)
    tokenizer = assembled.data.tokenizer
    assert tokenizer is not None, "text has a tokenizer"
    return FloatingPoint(assembled.module, restore_run(assembled, Path(folder)).floating_point), tokenizer


def quantized(full: FloatingPoint, scheme: str, options: dict[str, Any], calibration: Sequence[Any]) -> Quantized:
    """By the recipe of BERT in the paper, every activation in a range found on all of the batches."""
    config = QuantizationConfig(recipe="paper_bert", **options)
    recipe = config.make_recipe(scheme, full.module.config)  # type: ignore[attr-defined]
    return calibrate(full.module, full.params, recipe, calibration, len(calibration), config.make_method())


def texts_of(tokenizer: TextTokenizer, options: argparse.Namespace) -> dict[tuple[str, int], list[Batch]]:
    """Kind and length to batches."""
    found = {}
    for length in LENGTHS:
        number = LONG_TEXTS if length == max(LENGTHS) else TEXTS
        found["text", length] = batches(tokenizer, cut(tokenizer, options.text, length, number), length)
        if options.reviews:
            found["reviews", length] = batches(tokenizer, reviews(tokenizer, options.reviews, number), length)
    return found


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What `main` prints, run by run."""
    original, tokenizer = load(options.runs[0])
    positions = original.module.config.max_length  # type: ignore[attr-defined]
    if positions < max(LENGTHS):
        raise QtxError(f"{options.runs[0]} takes {positions} tokens at most, expected {max(LENGTHS)}")
    texts = texts_of(tokenizer, options)
    calibration = [
        batch
        for length, number in CALIBRATION_TEXTS.items()
        for batch in batches(tokenizer, cut(tokenizer, options.calibration, length, number), length)
    ]
    targets = {key: [jax.device_get(outputs(original, batch)) for batch in found] for key, found in texts.items()}
    if options.neighbours:
        many = batches(tokenizer, reviews(tokenizer, options.reviews, REVIEWS), REVIEW_LENGTH)
        neighbours = nearest(embeddings(original, many))
    wanted = USUAL | (OTHERS if options.others else {})
    for folder in options.runs:
        full = load(folder)[0]
        for how in ("fp", *wanted):
            head = {"run": Path(folder).name, "how": how}
            model = full if how == "fp" else quantized(full, *wanted[how], calibration)
            for (kind, length), found in texts.items():
                values = compared(model, found, targets[kind, length])
                values = values if how == "fp" else {name: values[name] for name in ("cosine", "error")}
                yield {**head, "text": kind, "length": length, **values}
            if options.neighbours:
                yield {**head, "text": "reviews", "neighbours": kept(embeddings(model, many), neighbours)}


@told_in_a_line("healing")
def main(arguments: Sequence[str]) -> int:
    """Prints a JSON line per measurement; 2 for bad input."""
    parser = argparse.ArgumentParser("experiments.healing", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, the original first")
    parser.add_argument("--calibration", nargs="+", required=True, metavar="FILE", help="texts to find ranges on")
    parser.add_argument("--text", nargs="+", required=True, metavar="FILE", help="texts that no run was trained on")
    parser.add_argument("--reviews", metavar="FILE", help="a text in the last column of every line")
    parser.add_argument("--neighbours", action="store_true", help="compare nearest neighbours among reviews, too")
    parser.add_argument("--others", action="store_true", help="other ways to quantize, too")
    options = parser.parse_args(arguments)
    if options.neighbours and not options.reviews:
        raise QtxError("--neighbours compares reviews: give --reviews=FILE")
    for line in measured(options):
        print(json.dumps({k: float(fixed(v, 5)) if isinstance(v, float) else v for k, v in line.items()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
