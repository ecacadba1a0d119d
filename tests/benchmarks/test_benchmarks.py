"""Results of benchmarks: what is committed can be drawn and compared, and what became slower is told."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys

import pytest

from benchmarks.all import BENCHMARKS, RESULTS, compare, ratios, read
from benchmarks.plot import PANELS, plot
from qtx.pipeline.export import expected_speed


@pytest.fixture(scope="module")
def committed():
    return read(RESULTS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_each_has_results_ratios_and_a_panel(committed, name):
    found = ratios(name, committed[name])
    assert found and all(0 < ratio < 100 for ratio in found.values())
    assert name in PANELS


@pytest.mark.slow
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


@pytest.mark.representative("all nothing")
@pytest.mark.parametrize(
    "command",
    [
        "all nothing",
        "all --against=nowhere",
        "all --cores=0",
        f"all --against={RESULTS}",
        f"all --folder={__file__}",
        f"all --folder={__file__}/below",
        "scaling --configs nothing",
        "evaluation --repeats=0",
        "integer_matmul --layers=-1",
        "attention --lengths 128 many",
        f"attention --output={RESULTS}",
    ],
)
def test_wrong_flags_are_told_in_a_line(command):
    module, *flags = command.split()
    ended = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *flags], capture_output=True, text=True, timeout=60
    )
    last = ended.stderr.splitlines()[-1]
    assert ended.returncode == 2 and re.search("expected|overwritten|choose from|unrecognized", last), ended.stderr


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[]", b"null", b'{"device": "cpu"}'])
def test_what_is_no_result_is_told_before_anything_is_measured(content, tmp_path, capsys):
    (tmp_path / "scaling.json").write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        read(tmp_path)
    assert "scaling.json has no results of it" in capsys.readouterr().err


@pytest.mark.parametrize("width, file", [(384, "integer_matmul_384"), (768, "integer_matmul")])
def test_an_export_tells_the_speed_that_was_measured(width, file):
    times = json.loads((RESULTS / f"{file}.json").read_text())["encoder_ms"]
    told = expected_speed(width)
    assert f"{times['fp32'] / times['integer']:.2f} times" in told and f"{times['fp32'] / times['linear']:.2f}" in told
    assert "width 384 ran" in expected_speed(96) and "width 768 ran" in expected_speed(1024)
