"""The page of a diagnosis: it stands alone, has a section for each finding, and shows what it is given as text."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qtx.analysis.diagnosis import Diagnosis, HeadRole, Measured, Outliers, Spiking
from qtx.analysis.head_map import HeadMap
from qtx.analysis.sensitivity import Sensitivity, Sweep
from qtx.pages import diagnosis_plots
from qtx.pages.diagnosis import method_table, sentences, tables
from qtx.pages.diagnosis_page import diagnosis_page, write_page
from tests.pages.parsed import Page

EVIL = "<script>"
REACH = np.array([1.0, 1.5, 90.0, 2.0])


def outliers(path, layer, norm=90.0, dimensions=None, **values):
    found = {"sigmas": 40.0, "typical": 0.5, "token_share": 0.1, "tokens": {EVIL: 90.0}, "positions": {"0": 90.0}}
    found["carried"] = path.endswith("_residual")
    return Outliers(path, layer, norm, dimensions={"2": 90.0} if dimensions is None else dimensions, **found | values)


def role(layer, head, mass, **values):
    found = {"value_drain": 0.05, "output": 1.0, "tokens": {EVIL: 8}, "positions": {"0": 8}}
    return HeadRole(layer, head, f"layers/attention[{layer}]", mass, **found | values)


DIAGNOSIS = Diagnosis(
    name="model & <b>",
    model="BERT, 2 layers",
    data="ten documents",
    examples=8,
    length=16,
    metric="fidelity",
    lower_is_better=False,
    scheme="w8a8",
    outliers=(
        outliers("layers/mlp_residual", 1, 95.0),
        outliers("layers/mlp/out", 1),
        outliers("layers/mlp_residual", 0, 4.0, {}),
        outliers("layers/mlp/out", 0, 3.0, {}),
    ),
    heads=(role(1, 0, 0.8), role(0, 1, 0.2), role(0, 0, 0.1), role(1, 1, 0.1)),
    ladder={"fp": Measured(1.0, 0.0), "w8a8": Measured(0.8, 0.5), "w4a8": Measured(0.5, 0.9)},
    methods={"static": Measured(0.8, 0.5), "hadamard": Measured(0.95, 0.1), "smoothquant": Measured(0.7, 0.6)},
    left_out={"per_token": "a reason"},
    writers=(Spiking("layers/mlp/hidden[1], unit 7", 2, 123.0, 456.0, 0.99, 0.93),),
    sweep=Sweep("w8a8", "fidelity", 1.0, 0.8, (Sensitivity("weight", "layers/mlp/out/kernel", 1, 8, 8.1, 0.9, 0.97),)),
    thorough=False,
    reach={"layers/mlp/out[1]": REACH},
    maps=(HeadMap(1, 0, np.eye(3), np.ones(3), np.ones(3), None, ["[CLS]", EVIL, "$a"]),),
)
OF_IMAGES = dataclasses.replace(
    DIAGNOSIS,
    outliers=tuple(dataclasses.replace(one, tokens={}, positions={"class": 90.0}) for one in DIAGNOSIS.outliers),
    heads=tuple(dataclasses.replace(one, tokens={}, positions={"class": 8}) for one in DIAGNOSIS.heads),
)
HEALTHY = dataclasses.replace(
    DIAGNOSIS,
    outliers=tuple(dataclasses.replace(one, dimensions={}) for one in DIAGNOSIS.outliers),
    heads=(role(0, 0, 0.1, value_drain=0.9),),
    methods={"static": Measured(0.8, 0.5)},
    left_out={},
    writers=(),
)
WITHOUT_ATTENTION = dataclasses.replace(
    DIAGNOSIS,
    heads=(role(0, 0, 0.0, output=0.0),),
    maps=(HeadMap(0, 0, np.zeros((3, 3)), np.ones(3), np.zeros(3), None, list("abc")),),
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_page(DIAGNOSIS, tmp_path_factory.mktemp("run")).read_text(encoding="utf-8")


def test_the_page_stands_alone_and_tokens_are_text(written):
    page = Page(written)
    assert not {"script", "link", "img"} & set(page.tags) and "model & <b>" in page.text
    links = [value for name, value in page.attributes if name in ("href", "xlink:href", "src")]
    assert links and all(value.startswith(("#", "data:image/png")) for value in links)
    assert EVIL not in written and page.text.count(EVIL) >= 3


def test_every_finding_has_its_sentence_first_and_its_section(written):
    text = Page(written).text
    places = [text.index(sentence) for sentence in sentences(DIAGNOSIS).values()]
    places += [
        text.index(heading)
        for heading in (
            "Where the outliers are",
            "Heads that do nothing",
            "What fewer bits cost, and what would save it",
            "Which tensor costs the most",
        )
    ]
    assert places == sorted(places)
    for shown in (
        "Layer by layer.",
        "Which dimensions.",
        "Every head.",
        "layers/attention[1], head 0.",
        "Other ways to",
    ):
        assert shown in text
    assert "per_token does not fit: a reason" in text


def test_the_sentences_say_what_was_found():
    said = sentences(DIAGNOSIS)
    assert said["outliers"].startswith(
        f"layers/mlp/out[1] holds the largest outliers: 90.0 in dimension 2, at token {EVIL}"
    )
    assert said["heads"].startswith("1 of 4 heads do nothing")
    assert "from 1.0000 to 0.8000" in said["cost"]
    assert "hadamard does best: fidelity 0.9500, which saves 75% of what is lost" in said["remedies"]
    assert "layers/mlp/out/kernel[1] costs most: fidelity 0.9000" in said["tensors"]


# The metric in floating point, in W8A8 and by a method that does best; what is said of the cost and of the method.
COSTS = {
    "a higher score than in floating point": (("f1", False, 0.5, 0.25, 0.6), "0.250.", "which saves all of what is"),
    "a lower perplexity than in floating point": (("perplexity", True, 4.0, 5.0, 3.9), "5.00.", "which saves all of"),
    "nothing that is shown": (("accuracy", False, 0.75, 0.75 - 1e-6, 0.76), ": nothing is lost.", "W8A8 loses nothing"),
    "less than nothing": (("perplexity", True, 4.0, 3.9, 3.8), ": nothing is lost.", "W8A8 loses nothing"),
    "no number": (("f1", False, float("nan"), float("nan"), 0.6), "to nan.", "No other way"),
    "everything": (("perplexity", True, 4.0, float("inf"), 8.0), "to inf.", "perplexity 8.00."),
}


@pytest.mark.parametrize("case", COSTS)
def test_what_is_saved_is_a_share_of_what_is_lost(case):
    (metric, lower_is_better, before, after, best), cost, remedies = COSTS[case]
    methods = {"static": Measured(after, 0.0), "hadamard": Measured(best, 0.0)}
    options = {"metric": metric, "lower_is_better": lower_is_better, "methods": methods}
    found = dataclasses.replace(
        DIAGNOSIS, **options, ladder={"fp": Measured(before, 0.0), "w8a8": Measured(after, 0.0)}
    )
    said = sentences(found)
    assert said["cost"].endswith(cost) and remedies in said["remedies"]
    saved = [row[-1] for row in method_table(found)[1][:2]]
    assert saved == (["0%", "all"] if "all" in remedies else ["", ""])


@pytest.mark.slow
def test_of_images_places_are_patches():
    page = Page(diagnosis_page(OF_IMAGES)).text
    assert "in dimension 2, at the class token, where" in page and "of 16 patches" in page and "at tokens" not in page


def test_what_is_not_there_is_said():
    page = Page(diagnosis_page(HEALTHY)).text
    assert page.count("There are no outliers") == 2 and "Which dimensions." not in page
    assert "No head does nothing." in page and "layers/attention[1], head 0." not in page
    assert "No other way to quantize to W8A8 does better than static." in page


def test_without_attention_no_head_is_drawn():
    page = Page(diagnosis_page(WITHOUT_ATTENTION)).text
    assert page.count("No head attends to anything: attention is off") == 2 and "Every head." not in page


def test_outlying_dimensions_have_another_colour():
    axes = diagnosis_plots.dimensions({"out": (REACH, 0.5, [2])}, 6.0).axes[0]
    inside, beyond = ([round(s[0, 0]) for s in lines.get_segments()] for lines in axes.collections)
    assert (inside, beyond) == ([0, 1, 3], [2])
    assert [text.get_text() for text in axes.texts] == ["2"]


def test_ways_to_quantize_start_from_the_configs_own():
    axes = diagnosis_plots.remedies({"static": 0.8, "hadamard": 0.95}, 1.0, "fidelity").axes[0]
    ends = {tuple(segment[:, 0]) for segment in axes.collections[0].get_segments()}
    assert ends == {(0.8, 0.8), (0.8, 0.95)}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hadamard", "static"]


def test_units_that_write_spikes_are_named_with_what_scaling_each_would_do():
    told = sentences(DIAGNOSIS)["writers"]
    assert told == (
        "layers/mlp/hidden[1], unit 7 writes the largest spike, 123 into dimension 2 of the residual stream, 456 times "
        "what the median unit of its layer does."
    )
    header, [row] = tables(DIAGNOSIS)["writers"]
    assert dict(zip(header, row, strict=True))["W8A8"] == "0.9300"
    assert "Hidden units that write spikes" in diagnosis_page(DIAGNOSIS)
    assert "writers" not in sentences(HEALTHY) and "write spikes" not in diagnosis_page(HEALTHY)
