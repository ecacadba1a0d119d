"""Results of benchmarks: what is committed can be drawn and compared, and what became slower is told."""

from __future__ import annotations

import copy
import importlib
import re
import subprocess
import sys

import pytest

from benchmarks.all import BENCHMARKS, RESULTS, compare, read
from benchmarks.plot import PANELS, plot


@pytest.fixture(scope="module")
def committed():
    return read(RESULTS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_has_results_ratios_and_a_panel(committed, name):
    ratios = importlib.import_module(f"benchmarks.{BENCHMARKS[name][0]}").ratios(committed[name])
    assert ratios and all(0 < ratio < 100 for ratio in ratios.values())
    assert name in PANELS


def test_they_are_drawn(committed, tmp_path):
    file = plot(committed, tmp_path / "all.png")
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 20_000


def test_what_fell_is_told(committed):
    assert compare(committed, committed) == ([], [])
    slower = copy.deepcopy(committed)
    for name in slower["attention"]["speedup"]["2048"]:
        slower["attention"]["speedup"]["2048"][name] *= 0.85
    slower["integer_matmul"]["encoder_ms"]["integer"] *= 1.05
    fell, others = compare(committed, slower)
    assert len(fell) == 3 and not others and all(text.startswith("attention: T 2048, ") for text in fell)
    slower["attention"]["cores"] = 64
    fell, others = compare(committed, slower)
    assert not fell and others[0].startswith("attention: measured on ('cpu', 1, 'float32'), now on ('cpu', 64,")
    fell, others = compare({}, committed)
    assert not fell and len(others) == len(BENCHMARKS)


def test_wrong_flags_are_told_in_a_line():
    for flags in (
        ["nothing"],
        ["--against=nowhere"],
        ["--cores=0"],
        [f"--against={RESULTS}"],
        [f"--folder={__file__}"],
    ):
        command = [sys.executable, "-m", "benchmarks.all", *flags]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 2 and re.search("expected|overwritten", ended.stderr.splitlines()[-1])
