"""The report: one page that stands alone, says what the results say, and copes with what a run lacks."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from qtx.analysis import Analysis, measure_outliers, save_analysis
from qtx.analysis.head_map import HeadMap
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import sealed_json
from qtx.pages.report import read_runs, report, write_report
from qtx.pages.results import write_lines
from tests.pages.parsed import Page
from tests.patient import DIMENSION, SEQUENCES

SITE = "layers/mlp_residual"


def make_analysis(outliers=5, off=False):
    generator = np.random.default_rng(0)
    names = (f"{SITE} full", f"{SITE} bulk")
    probs, ones = np.zeros((3, 3)) if off else np.eye(3), np.ones(3)
    head = HeadMap(0, 1, probs, value_norm=ones, context_norm=ones, openness=ones / 4, tokens=["<s>", "$a", "b"])
    return Analysis(
        metrics={"outliers": outliers, "max_inf_norm": 30.0},
        site=SITE,
        inf_norms={SITE: np.array([3.0, 30.0])},
        kurtoses={SITE: np.array([3.0, 300.0])},
        outliers_by_dimension=np.array([[0, outliers, 0], [0, 0, 0]]),
        outliers_by_position=np.array([[outliers, 0], [0, 0]]),
        outlier_tokens={"<script>": outliers} if outliers else {},
        heads={"sink_mass": np.full((2, 2), 0.0 if off else 0.5), "value_drain": np.full((2, 2), 0.2)},
        column_mass=np.full((2, 2), 0.5),
        histogram_range={name: np.array([[-8.0, 8.0]] * 2) for name in names},
        histograms={name: generator.integers(0, 9, (2, 1024)) for name in names},
        quantized_histograms={name: generator.integers(0, 9, (2, 1024)) for name in names},
        maps={"sink": head, "outlier": head},
    )


def make_result(variant, seed, metric="perplexity", **values):
    result = {"variant": variant, "seed": seed, "parameters": 150_000, "metric": metric, "fp": 4.5, "loss": 1.5}
    result |= {"max_inf_norm": 30.0, "avg_kurtosis": 12.0, "outliers": 5, "sink_mass": 0.5, "zero_share": 0.0}
    return result | {"dead_row_share": 0.0, "quantized": {"w8a8": 4.6, "w8a4": 9.0 + seed}, "seconds": 3.0} | values


CONFIG = {
    "family": "opt",
    "name": "demo: softmax, seed 0",
    "model": {"num_layers": 2, "width": 64, "num_heads": 2},
    "training": {"steps": 1200, "batch_size": 32},
    "data": {"source": "stdlib"},
}
HISTORY = [
    {"step": 0, "split": "monitor", "max_inf_norm": 3.0, "avg_kurtosis": 3.0, "sink_mass": 0.1},
    {"step": 0, "split": "eval", "loss": None},
    {"step": 100, "split": "train", "loss": 2.0},
    {"step": 100, "split": "monitor", "max_inf_norm": 30.0, "avg_kurtosis": 12.0, "sink_mass": 0.5},
    {"step": 100, "split": "eval", "loss": 1.5},
]
VARIANTS = ("softmax", "clipped_softmax,alpha=4", "none")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of a comparison of three variants and two seeds, with every file."""
    return write_report(make_comparison(tmp_path_factory.mktemp("comparison"))).read_text(encoding="utf-8")


def make_comparison(folder, outliers=5):
    lines = [make_result(variant, seed) for variant in VARIANTS for seed in (0, 1)]
    write_lines(lines, folder / "results.jsonl")
    for line in lines:
        run = folder / "runs" / f"{line['variant']}-seed{line['seed']}"
        run.mkdir(parents=True)
        (run / "config.json").write_bytes(sealed_json(CONFIG))
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in HISTORY))
        save_analysis(make_analysis(outliers, off=line["variant"] == "none"), run / "analysis.npz")
    return folder


def test_the_page_stands_alone(written):
    page = Page(written)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    addresses = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert addresses and all(value.startswith(("#", "data:image/png;base64,")) for value in addresses)
    assert "@import" not in written and not re.search(r"url\((?!#)", written)
    assert page.tags.count("figure") >= 13
    assert len(written) < 2_000_000


def test_every_drawing_is_described_and_its_references_resolve(written):
    drawings = re.findall(r"<svg .*?</svg>", written, flags=re.DOTALL)
    defined = [set(re.findall(r' id="(\w+)"', drawing)) for drawing in drawings]
    for drawing, ids in zip(drawings, defined, strict=True):
        assert re.match(r'<svg role="img" aria-label="[^"]{40,}"', drawing)
        used = set(re.findall(r"url\(#(\w+)\)", drawing)) | set(re.findall(r'xlink:href="#(\w+)"', drawing))
        assert used <= ids
        assert all(not used & other for other in defined if other is not ids)


def test_the_text_says_what_the_results_say(written):
    text = Page(written).text
    assert "Attention variants compared: demo" in text
    assert "3 attention variants, 2 seeds each, of one OPT: 2 layers, width 64, 2 heads, 150,000 parameters" in text
    assert "From floating point to W8A4, the hardest scheme, perplexity goes 4.50 → 9.50 with softmax" in text
    assert "OPT-125m, perplexity" in text and "softmax, decay on LayerNorm γ (matched)" in text
    assert "9.50 ± 0.71" in text
    assert "clipped_softmax has alpha=4." in text  # its name is shown without
    assert "“none” is the control" in text
    assert "<script> (5)" in text  # a token, shown as text
    assert "training.steps 1200" in text


def test_a_run_without_its_files_leaves_its_parts_out(tmp_path):
    write_lines([make_result("softmax", 0)], tmp_path / "results.jsonl")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "one seed, so no deviation is known" in text and "What quantization costs" in text
    for missing in ("What the heads do", "Learning.", "Configuration", "control", "Table 2"):
        assert missing not in text


def test_a_variant_cannot_name_another_folder(tmp_path):
    write_lines([make_result("../../elsewhere/softmax", 0)], tmp_path / "results.jsonl")
    with pytest.raises(QtxError, match="names '../../elsewhere/softmax-seed0', which is outside of it"):
        write_report(tmp_path)


def test_a_truncated_analysis_is_told(tmp_path):
    file = next(make_comparison(tmp_path).glob("runs/*/analysis.npz"))
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(QtxError, match="analysis.npz is not an analysis .*run qtx evaluate again"):
        write_report(tmp_path)


@pytest.mark.slow
def test_no_outliers_are_told_in_words(tmp_path):
    text = Page(write_report(make_comparison(tmp_path, outliers=0)).read_text(encoding="utf-8")).text
    assert "there are no outliers" in text and "Which hidden dimensions" not in text


@pytest.mark.slow
def test_a_real_models_outliers_are_told_where_they_are(patient, tmp_path):
    """One in every sequence and layer, at [CLS], in one dimension."""

    def piece(token):
        return patient.tokenizer.tokens([token])[0]

    analysis = measure_outliers(patient.module, patient.params, [patient.held_out], token_text=piece)
    assert analysis.outliers_by_dimension[:, DIMENSION].tolist() == [SEQUENCES] * 2
    assert analysis.outliers_by_position[:, 0].tolist() == [SEQUENCES] * 2
    assert analysis.metrics["outliers"] == 2 * SEQUENCES
    run = tmp_path / "runs" / "softmax-seed0"
    run.mkdir(parents=True)
    save_analysis(analysis, run / "analysis.npz")
    write_lines([make_result("softmax", 0, **analysis.metrics)], tmp_path / "results.jsonl")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert f"[CLS] ({2 * SEQUENCES})" in text and "194" in text


def test_no_finished_run_is_told(tmp_path):
    assert "No run is finished yet" in report(read_runs(tmp_path, []))


def test_accuracy_is_in_percent_and_higher_is_better(tmp_path):
    values = {"metric": "accuracy", "fp": 0.9, "quantized": {"w8a8": 0.89, "w4a4": 0.4}}
    write_lines([make_result("softmax", 0, **values)], tmp_path / "results.jsonl")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "From floating point to W4A4, the hardest scheme, accuracy goes 90.0 → 40.0 with softmax" in text
    assert "accuracy, %: higher is better" in text


def test_higher_fidelity_is_better(tmp_path):
    values = {"metric": "fidelity", "fp": 1.0, "quantized": {"w8a8": 0.9, "w6a6": 0.5}}
    write_lines([make_result("softmax", 0, **values)], tmp_path / "results.jsonl")
    text = Page(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "From floating point to W6A6, the hardest scheme, fidelity goes 1.0000 → 0.5000 with softmax" in text
    assert "fidelity: higher is better" in text


def test_attention_that_is_off_has_no_map(written):
    shown = re.findall(r"<b>([^<]*)\.</b> Of all heads", written)
    assert shown == ["softmax", "clipped_softmax"]  # the third is off
    assert "open by 25% on average" in Page(written).text
    assert "The loudest heads" not in written  # here they are those with the strongest sinks
