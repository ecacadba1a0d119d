"""Which tensor, dimension and token hold a run's outliers, and where its attention rows die.

    python -m experiments.outliers_where runs/bigram_backcopy_long/runs/gated_linear-seed0 ...

Prints for each run the tensors that the paper measures, those of the largest kurtosis first: the kurtosis over all
held-out values of the tensor (4th central moment over the squared variance; a normal distribution has 3), the largest
absolute value, the dimension that holds it, the largest one of any other dimension, and the tokens at the 200 largest
values of that dimension. Then the share of dead attention rows (no key gets anything) by position, averaged over heads,
for each layer.
"""

from __future__ import annotations

import collections
import sys
from pathlib import Path

import jax
import numpy as np
from rich.console import Console

from qtx.analysis.capture import FloatingPoint, measured_sites, values_at
from qtx.cli.flags import load_run_config
from qtx.experiment import read
from qtx.foundation.console import say
from qtx.foundation.numbers import number, percent
from qtx.masks import token_mask
from qtx.pages.results import markdown
from qtx.pipeline.measure import token_text
from qtx.pipeline.run import assemble_run, restore_run

ROWS = 6
LARGEST = 200
PROBABILITIES = "layers/attention/probs"
HEADER = ["tensor", "kurtosis", "max abs", "dimension", "max abs elsewhere", "tokens of its largest values"]
POSITIONS = (0, 1, 2, 3, 4, 8, 16, 31)


def tensors(workdir: Path) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[str]]:
    """Of a run's newest checkpoint: site and layer to values of the real held-out tokens `[N, D]`, their identities
    `[N]`, the share of dead rows by layer and position `[L, T]`, and the text of each token."""
    assembled, _ = assemble_run(read(load_run_config(workdir)), workdir, names_data=False)
    model = FloatingPoint(assembled.module, restore_run(assembled, workdir).floating_point)
    sites = measured_sites(assembled.module).tensors
    held_of = jax.jit(lambda batch: values_at(model, batch, {*sites, PROBABILITIES}))
    values, tokens, dead, rows = collections.defaultdict(list), [], 0.0, 0.0
    for batch in assembled.evaluation():
        held = jax.device_get(held_of(batch))
        mask = np.asarray(token_mask(batch, batch["tokens"].shape[1]))
        probabilities = held.pop(PROBABILITIES)  # [L, B, H, T, T]
        dead = dead + np.where(mask[None, :, None], probabilities.max(axis=-1) == 0, 0).mean(axis=2).sum(axis=1)
        rows = rows + mask.sum(axis=0)
        tokens.append(np.asarray(batch["tokens"])[mask])
        for site, layers in held.items():
            for layer, x in enumerate(layers):
                values[f"{site}[{layer}]" if len(layers) > 1 else site].append(x[mask])
    text = token_text(assembled.data) or (lambda token: "BOS" if token == 0 else str(token))
    identities = np.concatenate(tokens)
    names = [text(int(token)) for token in range(identities.max() + 1)]
    return {name: np.concatenate(x) for name, x in values.items()}, identities, dead / np.maximum(rows, 1), names


def row(name: str, x: np.ndarray, tokens: np.ndarray, names: list[str]) -> list[str]:
    """One tensor's."""
    centred = x.astype(np.float64) - x.mean(dtype=np.float64)
    kurtosis = (centred**4).mean() / (centred**2).mean() ** 2
    largest = np.abs(x).max(axis=0)
    dimension = int(largest.argmax())
    top = np.argsort(-np.abs(x[:, dimension]))[:LARGEST]
    counts = collections.Counter(names[token] for token in tokens[top])
    held = ", ".join(f"{token} {percent(count / len(top))}" for token, count in counts.most_common(3))
    others = np.delete(largest, dimension).max()
    return [name, number(kurtosis), number(largest.max()), str(dimension), number(others), held]


def main(arguments: list[str]) -> int:
    """Prints the tables of each run's folder."""
    console = Console(width=200)
    for workdir in map(Path, arguments):
        values, tokens, dead, names = tensors(workdir)
        rows = sorted(
            (row(name, x, tokens, names) for name, x in values.items()), key=lambda r: -float(r[1].replace(",", ""))
        )
        say(console, f"\n{workdir}\n\n{markdown(HEADER, rows[:ROWS])}")
        if dead.any():
            positions = [p for p in POSITIONS if p < dead.shape[1]]
            shares = [[str(layer), *(f"{of[p]:.2f}" for p in positions)] for layer, of in enumerate(dead)]
            say(console, markdown(["dead rows: layer", *(f"position {p}" for p in positions)], shares))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
