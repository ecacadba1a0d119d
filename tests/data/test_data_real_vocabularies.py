"""Round trips through the published BERT and OPT vocabularies, which lie in `../shared/data` where it is there."""

from __future__ import annotations

import functools
import lzma
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.data import TextTokenizer, load_tokenizer
from tests.data.samples import save

SHARED = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = {"bert": SHARED / "tokenizers" / "bert-base-uncased", "opt": SHARED / "tokenizers" / "opt"}
WIKITEXT = SHARED / "wikitext-2" / "wiki.test.raw.xz"

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in (*FOLDERS.values(), WIKITEXT)),
    reason="the published vocabularies and WikiText-2 are not in ../shared/data",
)
HARD = "  Naïve café №5, 漢字かな — “quotes”\t\ttabs\r\nand 👩‍👩‍👧 emoji 🇫🇷… \x00\ufeff  <s> [MASK] end  "


@functools.cache
def tokenizer(name: str) -> TextTokenizer:
    return load_tokenizer(FOLDERS[name])


@pytest.fixture(scope="module")
def article() -> str:
    return lzma.open(WIKITEXT, "rt", encoding="utf-8").read(200_000)


def test_the_published_ids():
    bert, opt = tokenizer("bert"), tokenizer("opt")
    assert (bert.vocab_size, bert.start, bert.end, bert.mask) == (30522, 101, 102, 103)
    assert bert.encode(["Hello, world!"])[0].tolist() == [7592, 1010, 2088, 999]
    assert (opt.vocab_size, opt.start, opt.end, opt.mask) == (50265, 2, 2, 50264)
    assert opt.encode(["Hello world"])[0].tolist() == [31414, 232]


def test_opt_gives_real_text_back_exactly(article):
    opt = tokenizer("opt")
    for text in (article, HARD):
        assert opt.decode(opt.encode([text])[0]) == text


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=200))
def test_opt_gives_any_text_back_exactly(text):
    opt = tokenizer("opt")
    assert opt.decode(opt.encode([text])[0]) == text


def plain(text: str) -> str:
    """A text but for what BERT's uncased vocabulary does not keep: case, accents, white space."""
    stripped = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    return "".join(stripped.split())


def test_bert_gives_real_text_back_but_for_case_accents_and_spaces(article):
    bert = tokenizer("bert")
    lines = [line for line in article.split("\n") if line.strip()]
    encoded = bert.encode(lines)
    unknown = bert.backend.token_to_id("[UNK]")
    whole = [(line, ids) for line, ids in zip(lines, encoded, strict=True) if unknown not in ids]
    assert len(whole) > 0.95 * len(lines)
    for line, ids in whole:
        assert plain(bert.decode(ids)) == plain(line)
        np.testing.assert_array_equal(bert.encode([bert.decode(ids)])[0], ids)


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_saved_and_loaded_it_gives_the_same_ids(name, article, tmp_path):
    original = tokenizer(name)
    save(original, tmp_path)
    loaded = load_tokenizer(tmp_path)
    for text in (article[:50_000], HARD):
        np.testing.assert_array_equal(loaded.encode([text])[0], original.encode([text])[0])
    assert (loaded.start, loaded.end, loaded.mask) == (original.start, original.end, original.mask)
    np.testing.assert_array_equal(loaded.is_special, original.is_special)
