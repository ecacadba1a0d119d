"""Prompts by their names: before every block of text, and one line for what cannot be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qtx.data import DataConfig, load, load_tokenizer
from qtx.data.prompts import PROMPTS, Prompts, read_prompts, with_prompt
from qtx.data.sources import TextFiles
from qtx.foundation.errors import QtxError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "find", "a", "text", ":", *"bcdefgh"]
TEXTS = {"query": "Find a text: ", "document": "", "empty": None}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / PROMPTS).write_text(json.dumps({"prompts": TEXTS, "default_prompt_name": "query"}))
    (tmp_path / "a.txt").write_text("b c d e f g h b c d e f g h b c d e f g h b c d e f g h")
    (tmp_path / "b.txt").write_text("h g f e d c b h g f e d c b h g f e d c b")
    return tmp_path


def made(folder, **options):
    files = {"files": (str(folder / "a.txt"),), "validation_files": (str(folder / "b.txt"),)}
    return DataConfig(TextFiles(**{**files, "tokenizer": str(folder), "sequence_length": 12, **options}))


def tokens(block, data):
    return " ".join(data.tokenizer.tokens(data.example(block, np.random.default_rng(0))["tokens"]))


def test_every_block_begins_with_the_prompt(folder):
    assert read_prompts(folder) == Prompts({"query": "Find a text: ", "document": "", "empty": ""}, "query")
    data = load(made(folder, prompt="query"), "distill")
    assert tokens(data.training[0], data) == "[CLS] find a text : b c d e f g h"
    assert tokens(data.training[1], data) == "[CLS] find a text : b c d e f g h"
    assert tokens(data.held_out[0], data) == "[CLS] find a text : h g f e d c b"
    example = data.example(data.training[0], np.random.default_rng(0))
    assert (example["prompt"], example["mask"].all()) == (5, True)
    # A run keeps the prompts beside its tokenizer.
    (folder / "run").mkdir()
    for name, text in data.tokenizer.files.items():
        (folder / "run" / name).write_text(text)
    again = with_prompt(load_tokenizer(folder / "run/tokenizer.json"), folder / "run/tokenizer.json", "query")
    assert (again.prompt, again.digest) == (data.tokenizer.prompt, data.tokenizer.digest)


@pytest.mark.parametrize("prompt", [None, "", "document", "empty"])
def test_without_a_prompt_blocks_are_as_they_were(folder, prompt):
    data = load(made(folder, prompt=prompt), "distill")
    assert tokens(data.training[0], data) == "[CLS] b c d e f g h b c d e"
    assert "prompt" not in data.example(data.training[0], np.random.default_rng(0))
    if not prompt:
        assert data.tokenizer.digest == load_tokenizer(folder).digest


def test_a_block_of_random_length_keeps_its_prompt(folder):
    data = load(made(folder, prompt="query", min_length=7, document_attention=True), "distill")
    for seed in range(20):
        example = data.example(data.training[0], np.random.default_rng(seed))
        found = data.tokenizer.tokens(example["tokens"])
        assert found[:5] == ["[CLS]", "find", "a", "text", ":"] and found[example["mask"].sum() - 1] == "[SEP]"
        assert 7 <= example["mask"].sum() <= 12 and example["segments"].shape == (12,)


WRONG = {
    "unknown": ({"prompt": "quary"}, "distill", "unknown prompt in .*: 'quary': did you mean 'query'"),
    "packed": ({"prompt": "query"}, "mlm", "prompt is set, but objective mlm learns .* choose distill"),
    "no room": ({"prompt": "query", "sequence_length": 6}, "distill", "sequence_length is 6, .* expected 7 or more"),
    "a short": ({"prompt": "query", "min_length": 6}, "distill", "min_length is 6, but the prompt takes 4"),
    "trained": ({"prompt": "query", "tokenizer": None}, "distill", "the tokenizer is trained here"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_gets_one_line(folder, case):
    options, objective, says = WRONG[case]
    with pytest.raises(QtxError, match=says) as error:
        load(made(folder, **options), objective)
    assert "\n" not in str(error.value)


BROKEN = {
    "a list": ({"prompts": ["a"]}, "prompts is not an object of texts"),
    "numbers": ({"prompts": {"a": 1}}, "prompts is not an object of texts"),
    "no default": (
        {"prompts": {"a": "b"}, "default_prompt_name": "c"},
        "default_prompt_name is 'c', which prompts lacks",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_prompts_get_one_line(folder, case):
    values, says = BROKEN[case]
    (folder / PROMPTS).write_text(json.dumps(values))
    with pytest.raises(QtxError, match=says):
        read_prompts(folder)
    (folder / PROMPTS).unlink()
    assert read_prompts(folder) == Prompts({}, None)
    with pytest.raises(QtxError, match="has no prompts in a config_sentence_transformers.json"):
        load(made(folder, prompt="query"), "distill")
