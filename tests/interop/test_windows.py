"""Windows over long texts against transformers' tokenizers and the examples of question answering there."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.sources import Questions

try:
    import transformers
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs transformers (pip install qtx[hf]): {error}", allow_module_level=True)

from tests.interop.test_tokenizers import MAKERS, TEXTS  # noqa: E402 (it skips without transformers, too)

KINDS = (
    "vocab.txt and a model",
    "BERT's, cased",
    "MPNet's",
    "RoBERTa's",
    "RoBERTa's, spaced",
    "XLM-R's",
    "CamemBERT's",
)
KINDS += ("Unigram of nobody's", "built in", "all-MiniLM")
LENGTH, STRIDE = 24, 5


def examples():
    """Questions, with answers at the beginnings, in the middle and at the ends of words."""
    rng = np.random.default_rng(0)
    for i, text in enumerate([*(text for text in TEXTS if text.strip()), "the cafe, f\u00fcr the Cafe. " * 9]):
        for _ in range(3):
            first = int(rng.choice([place for place, letter in enumerate(text) if letter.strip()]))
            answer = text[first : first + int(rng.integers(1, 12))].rstrip()
            question = ("the?", "  Cafe the", "f\u00fcr [MASK] the?")[i % 3]
            yield {"question": question, "context": text, "answers": [{"text": answer, "answer_start": first}]}


def of_run_qa(tokenizer, example):
    """The features of one example as `run_qa.py` of transformers makes them: ids, types, and both positions."""
    found = tokenizer(
        example["question"].lstrip(),
        example["context"],
        **{"truncation": "only_second", "max_length": LENGTH, "stride": STRIDE},
        **{"return_overflowing_tokens": True, "return_offsets_mapping": True},
    )
    for i, offsets in enumerate(found["offset_mapping"]):
        ids, sequence_ids = found["input_ids"][i], found.sequence_ids(i)
        cls_index = ids.index(tokenizer.cls_token_id)
        start_char = example["answers"][0]["answer_start"]
        end_char = start_char + len(example["answers"][0]["text"])
        token_start_index = 0
        while sequence_ids[token_start_index] != 1:
            token_start_index += 1
        token_end_index = len(ids) - 1
        while sequence_ids[token_end_index] != 1:
            token_end_index -= 1
        if not (offsets[token_start_index][0] <= start_char and offsets[token_end_index][1] >= end_char):
            positions = cls_index, cls_index
        else:
            # There it goes on into the special tokens, at (0, 0), if the answer begins in the last token of the text.
            while sequence_ids[token_start_index] == 1 and offsets[token_start_index][0] <= start_char:
                token_start_index += 1
            while offsets[token_end_index][1] >= end_char:
                token_end_index -= 1
            positions = token_start_index - 1, token_end_index + 1
        types = found["token_type_ids"][i] if "token_type_ids" in found else None
        yield ids, types, positions, [x == 1 for x in sequence_ids]


@pytest.mark.parametrize("kind", KINDS)
def test_windows_and_labels_are_those_of_transformers(kind, tmp_path):
    MAKERS[kind](tmp_path)
    other = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rows = [example for example in examples() if other.tokenize(example["context"])]
    content = {"data": [{"paragraphs": [{"context": row["context"], "qas": [row]} for row in rows]}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    file, options = (str(tmp_path / "a.json"),), dict(sequence_length=LENGTH, stride=STRIDE, tokenizer=str(tmp_path))
    data = load(DataConfig(Questions(files=file, validation_files=file, **options)), "question_answering")
    made = [data.example(block, np.random.default_rng(0)) for block in data.training]
    expected = [feature for row in rows for feature in of_run_qa(other, row)]
    assert len(made) == len(expected) > len(rows) + 10
    for ours, (ids, types, positions, context) in zip(made, expected, strict=True):
        n = int(ours["mask"].sum())
        assert ours["tokens"][:n].tolist() == ids and ours["context"][:n].tolist() == context
        assert types is None or ours["token_types"][:n].tolist() == types
        assert tuple(ours["labels"].tolist()) == positions, (other.convert_ids_to_tokens(ids), ours["labels"])
