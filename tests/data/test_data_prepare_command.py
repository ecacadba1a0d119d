"""`qtx prepare`, then `qtx train` on what it made."""

from __future__ import annotations

from pathlib import Path

import pytest

from qtx.cli.main import main

from .samples import prose

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_bert.py"


@pytest.fixture
def flags(tmp_path) -> list[str]:
    for name, seeds in (("web", range(12)), ("books", range(50, 58))):
        (tmp_path / name).mkdir()
        for i in seeds:
            (tmp_path / name / f"{i}.txt").write_text(prose(i, 150))
    return [
        f"--config={CONFIG}",
        "--config.data.source=text_corpus",
        f"--config.data.corpora=('{tmp_path}/web', '{tmp_path}/books')",
        "--config.data.weights=(1.0, 3.0)",
        "--config.data.held_out_fraction=0.3",
        "--config.data.document_attention=True",
        "--config.data.vocab_size=120",
        f"--config.data.data_dir={tmp_path}/tfds",
    ]


def test_prepare_tells_what_it_made_and_finds_it_again(flags, tmp_path, capsys):
    assert main(["prepare", *flags]) == 0
    first = capsys.readouterr().out
    assert f"{tmp_path}/web: blocks of 64 tokens, vocabulary 120" in first
    assert "train: 8 documents" in first and "validation: 4 documents" in first and "tokens/s" in first
    assert main(["prepare", *flags]) == 0
    again = capsys.readouterr().out
    assert again.count("found there") == 2 and "tokens/s" not in again


@pytest.mark.slow
def test_training_goes_on_with_what_is_prepared(flags, tmp_path, capsys):
    assert main(["prepare", *flags]) == 0
    small = ["training.steps=4", "training.warmup_steps=1", "training.batch_size=8", "model.num_layers=1"]
    training = [f"--workdir={tmp_path}/run", *(f"--config.{option}" for option in small)]
    assert main(["train", *flags, *training]) == 0
    assert "trained 4 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.data.source=stdlib"], "needs no preparation"),
        (["--config.data.source=text_corpus"], "needs corpora"),
        (["--workdir=x"], "takes no --workdir"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, message, capsys):
    assert main(["prepare", f"--config={CONFIG}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
