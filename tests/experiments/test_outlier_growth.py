"""The figure of outliers over training."""

from __future__ import annotations

import json

import pytest

from experiments import outlier_growth

TRAINED = {"split": "train", "step": 1, "loss": 2.0}
MONITORED = [
    {"split": "monitor", "step": 0, "max_inf_norm": 1.0, "avg_kurtosis": 3.0},
    {"split": "monitor", "step": 2, "max_inf_norm": 40.0, "avg_kurtosis": 66.0},
]


def test_each_run_is_a_curve_of_what_training_monitored(tmp_path):
    file = tmp_path / "softmax.metrics.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in [MONITORED[0], TRAINED, MONITORED[1]]))
    assert outlier_growth.growth(file) == {"max_inf_norm": [(0, 1.0), (2, 40.0)], "avg_kurtosis": [(0, 3.0), (2, 66.0)]}
    assert outlier_growth.main([str(file), f"--out={tmp_path}/out"]) == 0
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == ["avg_kurtosis.png", "max_inf_norm.png"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "is not the metrics.jsonl of a run"),
        ("x", "is not the metrics.jsonl of a run"),
        ('{"split": "monitor"}', "is not the metrics.jsonl of a run"),
        (json.dumps(TRAINED), "outliers_every"),
        (json.dumps({**MONITORED[0], "max_inf_norm": None}), "is not the metrics.jsonl of a run"),
    ],
)
def test_bad_input_is_told_in_a_line(text, says, tmp_path, capsys):
    file = tmp_path / "metrics.jsonl"
    if text is not None:
        file.write_text(text)
    assert outlier_growth.main([str(file), f"--out={tmp_path}/out"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("outlier_growth: error: ") and says in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name_are_refused(tmp_path, capsys):
    files = [tmp_path / name / "metrics.jsonl" for name in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_text(json.dumps(MONITORED[0]))
    assert outlier_growth.main([*map(str, files), f"--out={tmp_path}/out"]) == 2
    assert "two of the files have the same name" in capsys.readouterr().err
