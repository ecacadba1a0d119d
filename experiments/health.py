"""The health table: which public models integers ruin, and what healing makes of them.

    python -m experiments.patients all-mpnet-base-v2
    qtx heal models/all-mpnet-base-v2 --out=healed/all-mpnet-base-v2
    python -m experiments.health

The command measures each model of `experiments/models.txt` that `experiments/results/health` does not have yet, and its
healed checkpoint beside it, and writes their table into `docs/health.md`. Measured are the largest values and the
heads (as by `qtx analyze`), what is left of the outputs in integers (as by `qtx quantize`), both on as many texts as
`qtx analyze` takes, and, where its packages are installed, what ONNX Runtime's quantizer leaves (`qtx.judge`). A model
that cannot be had is told, and the others are measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.bad_input import told_in_a_line
from qtx.analysis.capture import FloatingPoint
from qtx.analysis.diagnosis import find_heads, find_outliers
from qtx.analysis.observation import observe_model
from qtx.experiment import read
from qtx.families.in_words import model_in_words
from qtx.foundation.errors import QtxError
from qtx.foundation.numbers import number, told_apart
from qtx.foundation.paths import at_home
from qtx.foundation.storage import write_whole
from qtx.interop import load
from qtx.models import TransformerConfig
from qtx.pages.results import markdown
from qtx.parts import Part
from qtx.pipeline.analyze import sampled
from qtx.pipeline.importing import config_of_checkpoint, found, import_run
from qtx.pipeline.judged import ask
from qtx.pipeline.measure import sums_of, token_text
from qtx.pipeline.patient import METRIC, patient_config
from qtx.pipeline.quantize import under
from qtx.pipeline.run import TrainedRun, restore_run
from qtx.quantization.recipe import Quantizer, Recipe, Rule
from qtx.training.evaluate import add_up

MODELS = Path("experiments/models.txt")
RESULTS = Path("experiments/results/health")
PAGE = Path("docs/health.md")
BEGIN, END = "<!-- the table that python -m experiments.health writes -->\n", "<!-- end of the table -->\n"

MULTIPLIED = (Part.NORM, Part.QUERY, Part.KEY, Part.VALUE, Part.PROBS, Part.CONTEXT, Part.HIDDEN)
WAYS: dict[str, dict[str, Any]] = {
    "W8A8, min-max": {"schemes": ("w8a8",), "weight_estimator": "minmax"},
    "W8A8, MSE": {"schemes": ("w8a8",), "weight_estimator": "mse"},
    "W8A8, products alone, weights per channel": {
        "schemes": ("w8a8",),
        "weight_estimator": "minmax",
        "weight_granularity": "channel",
        "recipe": f"{__file__}:products_alone",
    },
    "W6A6, MSE": {"schemes": ("w6a6",), "weight_estimator": "mse"},
}
HEALED, CAME = "healed", "as it came"


class Row(NamedTuple):
    """A line of `MODELS`: a checkpoint, and the folder of its healed checkpoint, if there is one."""

    checkpoint: str
    healed: Path | None

    @property
    def name(self) -> str:
        return Path(self.checkpoint.removeprefix("builtin:")).name


def rows_of(file: Path) -> list[Row]:
    """The models that a file lists.

    Raises:
      QtxError: for a line of more than two words, or a name that comes twice.
    """
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 2:
            raise QtxError(f"{file}: {line!r} has {len(words)} words: expected a checkpoint and a healed folder")
        rows += [Row(words[0], at_home(words[1]) if words[1:] else None)] if words else []
    names = [row.name for row in rows]
    if twice := [name for name in names if names.count(name) > 1]:
        raise QtxError(f"{file} has {twice[0]} twice: their measurements would be in one file")
    return rows


def products_alone(config: TransformerConfig, weight: Quantizer, activation: Quantizer) -> Recipe:
    """A recipe for what matrix products multiply, but for a head's: sums and norms stay in floating point."""
    head = Rule(Part.HEAD, None, optional=True)
    left = Rule("*", None, optional=True)
    activations = (Rule(part, activation, optional=True) for part in MULTIPLIED)
    return Recipe((head, Rule("*/kernel", weight), left), (head, *activations, left))


def measured(run: TrainedRun, batches: Sequence[Any]) -> dict[str, Any]:
    """Measures what `qtx analyze` and `qtx quantize` say of a model, on batches that have its original's outputs."""
    assembled, params = run.assembled, run.floating_point
    floating = FloatingPoint(assembled.module, params)
    observation, text = observe_model(floating, batches), token_text(assembled.data) or str
    # A sum has the outliers of its terms.
    largest = next(one for one in find_outliers(observation, text) if not one.carried)
    heads = find_heads(observation, text)
    models = {"FP": floating} | {
        way: under(run.with_quantization(**options), options["schemes"][0]) for way, options in WAYS.items()
    }
    return {
        "texts": len(observation.real),
        "largest": {
            "value": largest.norm,
            "tensor": largest.name,
            "dimension": next(iter(largest.dimensions), None),
            "token": next(iter(largest.tokens), None),
        },
        "heads": {"rest": sum(head.does_nothing for head in heads), "of": len(heads)},
        METRIC: {way: add_up(sums_of(assembled, model), batches)[METRIC] for way, model in models.items()},
    }


def measure(row: Row, healed: Path | None) -> Iterator[dict[str, Any]]:
    """A line about a model as it came and, if its folder is given, one about its healed checkpoint."""
    source = found(row.checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        assembled = import_run(read(patient_config(config_of_checkpoint(source))), Path(scratch, "run"), source)
        original = restore_run(assembled, Path(scratch, "run"))
        original = dataclasses.replace(original, assembled=sampled(original.assembled))
        batches = list(original.assembled.evaluation())
        model = assembled.experiment.model
        head = {"model": row.name, "is": f"{model_in_words(model)}, {assembled.parameters:,} parameters"}
        head["data"] = assembled.data.description
        lines = [{**head, "state": CAME, **measured(original, batches)}]
        if healed is not None:
            config, params = load(healed)
            one = dataclasses.replace(original, assembled=original.assembled.with_model(config), params=params)
            lines.append({**head, "state": HEALED, **measured(one, batches)})
    verdicts, problem = ask(model, source.folder, *([] if healed is None else [healed]))
    if problem:
        print(f"{row.name}: ONNX Runtime's quantizer was not asked: {problem}", file=sys.stderr, flush=True)
    for number_, line in enumerate(lines):
        own = verdicts[2 * number_ : 2 * number_ + 2]
        yield {**line, "onnxruntime": {one["weights"]: one["int8_to_first_fp"] for one in own}}


def kept(file: Path) -> list[dict[str, Any]]:
    """The lines of a model that are measured already."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def up_to_date(row: Row, again: bool) -> list[dict[str, Any]]:
    """The lines of a model, measured now if they have not been, or not with the healed checkpoint that is there now."""
    file = RESULTS / f"{row.name}.jsonl"
    lines = kept(file)
    healed = row.healed if row.healed is not None and (row.healed / "config.json").is_file() else None
    if lines and not again and (healed is None or len(lines) == 2):
        return lines
    print(f"measuring {row.name}", file=sys.stderr, flush=True)
    try:
        lines = list(measure(row, healed))
    except QtxError as error:
        print(f"{row.name} is not measured: {error}", file=sys.stderr, flush=True)
        return lines
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole({file: "".join(f"{json.dumps(line)}\n" for line in lines).encode()})
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """The health table in Markdown."""
    header = ["model", "", "largest value", "where", "heads that rest", "FP", *WAYS]
    header += [f"ONNX Runtime, {weights}" for weights in ("per tensor", "per channel")]
    rows = []
    for line in lines:
        largest, heads, fidelity, judge = (line[key] for key in ("largest", "heads", METRIC, "onnxruntime"))
        where = f"`{largest['tensor']}`"
        where += "" if largest["dimension"] is None else f", dimension {largest['dimension']}"
        where += "" if largest["token"] is None else f", at `{largest['token']}`"
        cells = [number(largest["value"]), where, f"{heads['rest']} of {heads['of']}"]
        cells += [told_apart(fidelity[way], 3, "f") for way in ("FP", *WAYS)]
        cells += [told_apart(judge[way], 3, "f") if judge else "" for way in ("per tensor", "per channel")]
        rows.append([line["model"] if line["state"] == CAME else "", line["state"], *cells])
    return markdown(header, rows)


def with_table(page: str, text: str) -> str:
    """A page with its table exchanged.

    Raises:
      QtxError: if the page has no place for one.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise QtxError(f"{PAGE} lacks the lines {BEGIN.strip()!r} and {END.strip()!r}, between which the table goes")
    return f"{before}{begin}\n{text}\n{end}{after}"


@told_in_a_line("health")
def main(arguments: list[str]) -> int:
    """Measures what is not measured, and writes the table; 2 for bad input."""
    parser = argparse.ArgumentParser(
        "experiments.health", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--again", action="append", default=[], metavar="MODEL", help="measure this one anew")
    options = parser.parse_args(arguments)
    rows, page = rows_of(MODELS), PAGE.read_text(encoding="utf-8")
    if unknown := set(options.again) - {row.name for row in rows}:
        raise QtxError(f"{MODELS} has no {sorted(unknown)[0]}: it has {', '.join(row.name for row in rows)}")
    with_table(page, "")
    lines = [line for row in rows for line in up_to_date(row, row.name in options.again)]
    write_whole({PAGE: with_table(page, table(lines)).encode()})
    print(f"{PAGE}: {len({line['model'] for line in lines})} of {len(rows)} models")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
