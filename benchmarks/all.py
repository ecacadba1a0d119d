"""All benchmarks, their plot, and what became slower: `python -m benchmarks.all [NAME ...] [--folder=FOLDER]`.

Each runs in a process of its own and writes FOLDER/NAME.json; then FOLDER/benchmarks.png shows them. With
`--against=FOLDER`, the ratios of each (`ratios` in its module: a fused attention's speed over the naive one's, qtx's
over PyTorch's, an integer encoder's over FP32's) are compared with those in another folder: those that fell by more
than a tenth are told, with exit code 1.

    python -m benchmarks.all                                                  # measures anew what is committed
    python -m benchmarks.all --folder=runs/benchmarks --against=benchmarks/results      # make bench
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.plot import plot

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {
    "attention": ("attention", "--patterns", "--lengths", "128", "512", "1024", "2048", "4096"),
    "attention_causal": ("attention", "--causal", "--lengths", "128", "512", "1024", "2048"),
    "backends": ("backends", "--repeats", "3"),
    "families": ("families", "--repeats", "5"),
    "training_step": ("training_step", "--compile", "--repeats", "9"),
    "evaluation": ("evaluation",),
    "integer_matmul": ("integer_matmul",),
    "integer_matmul_384": ("integer_matmul", "--width", "384", "--layers", "6"),
    "noise": ("noise",),
    "onnx_graphs": ("onnx_graphs",),
    "scaling": ("scaling",),
}
"""Name -> its module, and the arguments."""
NEEDED = {"training_step": ("torch", "transformers"), "onnx_graphs": ("onnx", "onnxruntime")}
FELL = 0.9
PLACE = ("device", "cores", "dtype")
"""What results must have in common to be compared."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="for the results (default %(default)s)")
    parser.add_argument("--against", type=Path, help="a folder of earlier results to compare with")
    parser.add_argument("--cores", type=int, default=1, help="that each may use (default %(default)s)")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: expected one of {', '.join(BENCHMARKS)}")
    if options.against is not None and not options.against.is_dir():
        parser.error(f"--against={options.against} is no folder: expected one with results, e.g. {RESULTS}")
    if options.against is not None and options.against.resolve() == options.folder.resolve():
        parser.error(
            "--against and --folder are the same: the earlier results would be overwritten before they are read"
        )
    before = {} if options.against is None else read(options.against)
    use_cores(parser, options.cores)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--folder={options.folder}: expected a folder, or where one can be made ({error.strerror})")
    read(options.folder)  # what is no result there is told now, not after the hour
    ran = []
    for name in options.names or BENCHMARKS:
        print(f"== {name}", flush=True)
        missing = [package for package in NEEDED.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            print(f"left out: needs {' and '.join(missing)} (pip install {' '.join(missing)})")
            continue
        file = options.folder / f"{name}.json"
        module, *arguments = BENCHMARKS[name]
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, f"--output={file}"]
        if subprocess.run(command, check=False).returncode:
            return 1
        ran.append(name)
    after = read(options.folder)
    print(f"plot: {plot(after, options.folder / 'benchmarks.png')}")
    if options.against is None:
        return 0
    fell, others = compare(before, {name: after[name] for name in ran})
    print(
        *others,
        *fell or ["nothing else fell by more than a tenth" if others else "nothing fell by more than a tenth"],
        sep="\n",
    )
    return 1 if fell else 0


def use_cores(parser: argparse.ArgumentParser, count: int) -> None:
    """Keeps this process, and those that it starts, on the first cores that it may use."""
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= count <= len(allowed):
        parser.error(f"--cores={count}: expected 1 to {len(allowed)}")
    os.sched_setaffinity(0, allowed[:count])


def read(folder: Path) -> dict[str, Any]:
    """The results in a folder, by name."""
    files = {name: folder / f"{name}.json" for name in BENCHMARKS}
    found = {}
    for name, file in files.items():
        if file.is_file():
            try:
                found[name] = json.loads(file.read_text(encoding="utf-8"))
                ratios(name, found[name])
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                print(f"{file} has no results of it ({error!r}): delete it, or measure it anew", file=sys.stderr)
                raise SystemExit(2) from None
    return found


def ratios(name: str, result: Mapping[str, Any]) -> dict[str, float]:
    """Of a benchmark's results, as its module has them."""
    return importlib.import_module(f"benchmarks.{BENCHMARKS[name][0]}").ratios(result)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """A text for each ratio that fell, and one for each that could not be compared."""
    fell, others = [], []
    for name in BENCHMARKS:
        if name not in before or name not in after:
            others.append(f"{name}: not measured {'now' if name in before else 'before'}, not compared")
            continue
        places = [tuple(result.get(key) for key in PLACE) for result in (before[name], after[name])]
        if places[0] != places[1]:
            others.append(f"{name}: measured on {places[0]}, now on {places[1]}, not compared")
            continue
        old, new = ratios(name, before[name]), ratios(name, after[name])
        others += [f"{name}: {key} not measured now, not compared" for key in old if key not in new]
        both = [key for key in old if key in new]
        fell += [
            f"{name}: {key} fell from {old[key]:.2f} to {new[key]:.2f}" for key in both if new[key] < FELL * old[key]
        ]
    return fell, others


if __name__ == "__main__":
    sys.exit(main())
