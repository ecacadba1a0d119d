"""Which post-training methods bring a decoder back: perplexities of one checkpoint, quantized by each row of `ROWS`.

    python -m experiments.decoders_ptq smollm2-135m wiki.test.raw.xz

Of characters 20,000 to 60,000 of the text, in windows of 256 tokens, each alone: six for calibration, the next eight
for the perplexity. A row that `experiments/results/decoders/<name of the folder>.jsonl` has is not measured again.
`docs/decoders.md` shows the rows of SmolLM2-135M (Instruct) on the test text of WikiText-2.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from experiments.bad_input import told_in_a_line
from qtx.analysis.writers import spike_writers
from qtx.anatomy import read
from qtx.families import build
from qtx.interop import load
from qtx.parts import Part
from qtx.pipeline.relief import units_of
from qtx.quantization import RECIPES, QuantizationConfig, Quantized, Recipe, Rule, calibrate
from qtx.training.relief import ReliefConfig, relieved

RESULTS = Path(__file__).parent / "results" / "decoders"
WINDOW, CALIBRATION, MEASURED = 256, 6, 8


def kernels(weight: Any) -> tuple[Rule, ...]:
    """Returns rules for the kernels of the layers alone."""
    return Rule("layers/*/kernel", weight), Rule("*", None)


def weights(config: Any, weight: Any, activation: Any) -> Recipe:
    """Makes the recipe of the kernels of the layers, with activations in floating point."""
    return Recipe(kernels(weight), (Rule("*", None),))


def inputs(config: Any, weight: Any, activation: Any) -> Recipe:
    """Makes the recipe of what the layers' matrix products of activations and kernels read."""
    read = (Part.NORM, Part.CONTEXT, Part.HIDDEN)
    return Recipe(
        kernels(weight), (Rule("final_norm", None), *(Rule(part, activation) for part in read), Rule("*", None))
    )


def every(config: Any, weight: Any, activation: Any) -> Recipe:
    """Makes the recipe of the tensors that a NumPy reference of this protocol rounds: `strict` less the table, the
    norms' scales, the scores, and queries, keys and the gate's branch before they are turned or multiplied."""
    left = ("head/*", "*/scores", "*/query", "*/key", "*/gate", "*/embeddings/words")
    return Recipe(kernels(weight), (*(Rule(path, None, optional=True) for path in left), Rule("*", activation)))


class Row(NamedTuple):
    """One way to quantize: fields of `QuantizationConfig`, two of them in short, and what is changed before, a name in
    `RELIEFS`."""

    method: str
    scheme: str = "w8a8"
    recipe: str = "strict"
    weights: str = "channel"
    relief: str = ""


FINE = "input_group,size=64"
"""128 does not divide the width of SmolLM2-135M, 576."""
ROWS = (
    Row("", "floating point", "", ""),
    Row("static", recipe="inputs"),
    Row("per_token", recipe="every"),
    Row("static", recipe="every"),
    Row("static"),
    Row("static", weights="tensor"),
    Row("per_token"),
    Row("quarot"),
    Row("hadamard"),
    Row("quarot", recipe="inputs"),
    Row("per_token + quarot"),
    *(Row(method, "w4a16", "weights", FINE) for method in ("static", "gptq", "awq", "quarot + gptq")),
    *(Row(method, f"w16a16kv{bits}", "weights") for bits in (4, 8) for method in ("static", "quarot")),
    *(Row(f"per_token{method}", "w4a8", "every", FINE) for method in ("", " + gptq", " + quarot + gptq", " + awq")),
    Row("smoothquant"),
    Row("quarot + gptq"),
    Row("per_token + quarot + gptq", "w4a8kv4", "every", FINE),
    Row("per_token + hadamard"),
    Row("per_token + smoothquant"),
    Row("smoothquant", recipe="inputs"),
    Row("smoothquant + quarot + gptq"),
    Row("awq + gptq", "w4a16", "weights", FINE),
    Row("per_token", weights="tensor"),
    Row("per_token + quarot", weights="tensor"),
    Row("gptq"),
)
PREFIX, UNITS = "prefix", "prefix and units"
ROWS += (
    *(Row("static", weights=weights, relief=relief) for weights in ("tensor", "channel") for relief in (PREFIX, UNITS)),
    *(Row(method, relief=relief) for method in ("quarot", "hadamard", "smoothquant") for relief in (PREFIX, UNITS)),
    Row("quarot", weights="tensor", relief=UNITS),
    Row("per_token + quarot", relief=PREFIX),
)
MOST_WRITTEN = 100
"""How much a hidden unit may write, in what the median unit of its layer does (`qtx.pipeline.relief`)."""
LOOKING = ("smoothquant", "awq", "gptq")
"""Methods that look at the calibration data."""


def windows(folder: Path, text: Path) -> list[dict[str, np.ndarray]]:
    """Returns the windows of the text, each as a batch of one."""
    characters = (lzma.open if text.suffix == ".xz" else open)(text, "rt", encoding="utf8").read()[20_000:60_000]
    ids = np.array(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(characters).ids, np.int32)
    return [{"tokens": ids[None, i * WINDOW : (i + 1) * WINDOW]} for i in range(CALIBRATION + MEASURED)]


@jax.jit
def _loss(model: Quantized, batch: Any) -> jax.Array:
    scores = jax.nn.log_softmax(model.apply(batch)[:, :-1])
    return -jnp.take_along_axis(scores, batch["tokens"][:, 1:, None], -1).mean()


def perplexity(model: Quantized, batches: list[Any]) -> float:
    """Returns the perplexity of the windows' tokens but their first."""
    return float(np.exp(np.mean([_loss(model, batch) for batch in batches])))


def quantized(row: Row, module: Any, params: Any, batches: list[Any]) -> Quantized:
    """Quantizes the model as a row says."""
    if not row.method:
        return Quantized(module, params, (), (), {}, {})
    static = row.recipe != "weights" and "per_token" not in row.method
    number = len(batches) if static or any(name in row.method for name in LOOKING) else 1
    options = QuantizationConfig(
        recipe=row.recipe if row.recipe in RECIPES else f"{__file__}:{row.recipe}",
        schemes=(row.scheme,),
        method=row.method,
        weight_estimator="minmax",
        weight_granularity=row.weights,
    )
    recipe = options.make_recipe(row.scheme, module.config)
    return calibrate(module, params, recipe, batches, number, options.make_method())


def with_relief(name: str, module: Any, params: Any, batches: list[Any], newline: int) -> tuple[Any, Any]:
    """Returns the model with a new line's keys and values before every text, and with units that write spikes scaled,
    as far as a name says."""
    if not name:
        return module, params
    relief = ReliefConfig((newline,))
    changed = build(dataclasses.replace(module.config, prefix=1))
    own = relieved(relief, changed, module, params)
    if name == PREFIX:
        return changed, own
    writers = spike_writers(changed, own, batches, read(changed, batches[0]))
    units = units_of(writers, MOST_WRITTEN)
    return changed, relieved(dataclasses.replace(relief, units=units), changed, module, params)


@told_in_a_line("experiments.decoders_ptq")
def main(arguments: list[str] | None = None) -> int:
    """Measures the rows that the results lack, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkpoint's")
    parser.add_argument("text", type=Path, help="as it is, or compressed by xz")
    given = parser.parse_args(arguments)
    for path in (given.folder / "config.json", given.text):
        if not path.exists():
            print(f"experiments.decoders_ptq: {path} is not there: nothing is measured")
            return 0
    file = RESULTS / f"{given.folder.name}.jsonl"
    RESULTS.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {tuple(row.get(name, Row._field_defaults.get(name)) for name in Row._fields) for row in done}
    config, params = load(str(given.folder))
    module, batches = build(config), windows(given.folder, given.text)
    held_out = batches[CALIBRATION:]
    [newline] = Tokenizer.from_file(str(given.folder / "tokenizer.json")).encode("\n").ids
    for row in ROWS:
        if row in known:
            continue
        began, seen = time.monotonic(), batches[:CALIBRATION]
        found = perplexity(quantized(row, *with_relief(row.relief, module, params, seen, newline), seen), held_out)
        line = json.dumps({**row._asdict(), "perplexity": round(found, 2), "seconds": round(time.monotonic() - began)})
        print(line, flush=True)
        with file.open("a") as out:
            out.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
