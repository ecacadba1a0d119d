"""The text sources: what is read, where documents end, how they are split, and every complaint."""

from __future__ import annotations

import gzip
import lzma

import numpy as np
import pytest

from qtx.data import DataConfig, load
from qtx.data.listing import expand
from qtx.data.reading import cut, read_text
from qtx.data.sources import TextFiles
from qtx.data.sources.stdlib import module_docstrings, stdlib_documents
from qtx.data.sources.text_files import read_documents
from qtx.data.splitting import split_by_name
from qtx.foundation.errors import QtxError

from .samples import prose


def config(*files, **options) -> DataConfig:
    options = {"sequence_length": 16, "vocab_size": 300} | options
    return DataConfig(TextFiles(files=tuple(map(str, files)), **options))


def test_stdlib_is_prose_sorted_and_without_duplicates():
    documents = stdlib_documents()
    names = [document.name for document in documents]
    assert len(set(names)) == len(names)
    assert names == [n for n in names if n.startswith("topic ")] + [n for n in names if n.startswith("module ")]
    assert names[: names.index("topic while") + 1] == sorted(names[: names.index("topic while") + 1])
    text = {document.name: document.text for document in documents}
    assert 'The "while" statement' in text["topic while"]
    assert "module json.decoder" in text and "module test.support" not in text
    assert text["module json.decoder"].startswith("Implementation of JSONDecoder")
    assert 1_500_000 < sum(map(len, text.values())) < 5_000_000


def test_module_docstrings_in_source_order():
    source = (
        b'"""One."""\nclass A:\n    """Two.\n\n    More.\n    """\n    def f(self):\n        "Three."\n'
        b'async def g():\n    "Four."\n'
    )
    assert module_docstrings(source) == "One.\n\nTwo.\n\nMore.\n\nThree.\n\nFour."
    assert module_docstrings(b"x = 1\n") == ""
    assert module_docstrings(b"not python (") == ""


def test_compressed_files_read_the_same(tmp_path):
    text = "Naïve text,\nin two lines.\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(text.encode()))
    assert {read_text(path) for path in expand([f"{tmp_path}/a.*"])} == {text}


def test_globs_are_sorted_and_each_file_once(text_folder):
    files = expand([f"{text_folder}/[5-9].txt", f"{text_folder}/**/*.txt", f"{text_folder}/3.txt"])
    assert files == [f"{text_folder}/{i}.txt" for i in range(10)]


def test_cut_before_each_match():
    wikitext = " \n = Title = \n \n Text . \n = = Section = = \n More . \n = A = B = \n Last . \n"
    assert list(cut([wikitext], r"^ = [^=].* = $")) == [
        " ",
        " = Title = \n \n Text . \n = = Section = = \n More . ",
        " = A = B = \n Last . ",
    ]
    assert list(cut(["a\nb\n\nc\n\n\nd"], r"\n\n")) == ["a\nb", "c", "d"]


def test_documents_are_held_out_whole_wherever_they_lie(text_folder, tmp_path):
    def held_out(folder):
        documents = read_documents([f"{folder}/*.txt"], None)
        return set(split_by_name(documents, str, 0.2, "document", "")[1])

    moved = tmp_path / "moved"
    moved.mkdir()
    for i, path in enumerate(sorted(text_folder.iterdir(), reverse=True)):
        (moved / f"{i}.txt").write_bytes(path.read_bytes())
    assert len(held_out(text_folder)) == 2
    assert held_out(text_folder) == held_out(moved)


def test_blocks_are_the_documents_between_special_tokens(text_folder):
    data = load(config(f"{text_folder}/0.txt", validation_files=(f"{text_folder}/1.txt",), vocab_size=280), "clm")
    for split, i in ((data.training, 0), (data.held_out, 1)):
        stream = np.concatenate([block[1:] for block in split])
        text = (text_folder / f"{i}.txt").read_text()
        assert text.startswith(data.tokenizer.decode(stream))
        assert len(text) - len(data.tokenizer.decode(stream)) < 17 * 20
        assert {block[0] for block in split} == {data.tokenizer.start}


def test_a_tokenizer_never_sees_held_out_text(text_folder, tmp_path):
    (tmp_path / "other.txt").write_text("zygomorphic " * 500)
    data = load(
        config(
            f"{text_folder}/*.txt", validation_files=(f"{tmp_path}/other.txt",), tokenizer="wordpiece", vocab_size=100
        ),
        "mlm",
    )
    assert not any("zy" in token for token in data.tokenizer.tokens(range(data.vocab_size)))


def test_one_file_can_be_cut_into_documents(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(prose(i, 60) for i in range(20)))
    with pytest.raises(QtxError, match="only one document.*validation_files.*document_separator"):
        load(config(path), "clm")
    data = load(config(path, document_separator=r"\n\n", held_out_fraction=0.5), "clm")
    assert "10 training and 10 held-out documents" in data.description


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        (b"fine until \xe9 here", ".txt", "bad.txt is not UTF-8 text: byte 0xe9 at offset 11"),
        (gzip.compress(b"\xff", mtime=0), ".gz", "not UTF-8 text: byte 0xff at offset 0"),
        (b"a\0b", ".txt", "zero byte at offset 1"),
        (b"no gzip", ".gz", "cannot read .*bad.gz"),
        (gzip.compress(b"long enough", mtime=0)[:-9], ".gz", "cannot read"),
        (lzma.compress(b"long enough")[:-9], ".xz", "cannot read"),
        (b"", ".txt", "no text in"),
        (b" \n\n", ".txt", "no text in"),
    ],
)
def test_unreadable_files(content, suffix, message, tmp_path):
    (tmp_path / f"bad{suffix}").write_bytes(content)
    with pytest.raises(QtxError, match=message) as caught:
        load(config(tmp_path / f"bad{suffix}"), "clm")
    assert "\n" not in str(caught.value)


def test_bad_options(text_folder, tmp_path):
    files = f"{text_folder}/*.txt"
    (tmp_path / "short.txt").write_text("short")
    cases = [
        (dict(), "needs files"),
        (dict(files=("nowhere/*.txt",)), "no file matches 'nowhere/\\*.txt'"),
        (dict(files=(files,), validation_files=("nowhere.txt",)), "there is no file 'nowhere.txt'"),
        (dict(files=(files,), validation_files=(files,), held_out_fraction=0.1), "keep one"),
        (dict(files=(files,), document_separator="("), "no regular expression"),
        (dict(files=(files,), held_out_fraction=0.9), "held_out_fraction"),
        (dict(files=(files,), sequence_length=3), "sequence_length is 3"),
        (dict(files=(files,), mask_probability=1.5), "mask_probability is 1.5"),
        (dict(files=(files,), tokenizer="word_piece"), "no tokenizer word_piece"),
        (dict(files=(files,), tokenizer="some/vocab.txt", vocab_size=9), "loaded, not trained"),
        (dict(files=(files,), vocab_size=10), "too small for bpe"),
        (dict(files=(files,)), "vocab_size 4096 is too large"),
        (
            dict(files=(files,), vocab_size=300, sequence_length=10**6),
            "training text has .* tokens",
        ),
        (
            dict(files=(files,), validation_files=(f"{tmp_path}/short.txt",), vocab_size=300),
            "held-out text has .* tokens",
        ),
        (dict(files=(files,), vocab_size=300, mask_probability=0.2), "masks nothing"),
    ]
    for options, message in cases:
        with pytest.raises(QtxError, match=message) as caught:
            load(DataConfig(TextFiles(**options)), "clm")
        assert "\n" not in str(caught.value)


def test_masked_language_modelling_needs_a_mask_token(text_folder):
    with pytest.raises(QtxError, match=r"needs a tokenizer with \[MASK\]"):
        load(config(f"{text_folder}/*.txt", tokenizer="bpe"), "mlm")


@pytest.mark.slow
def test_wikitext_articles(shared_data):
    folder = shared_data / "wikitext-2"
    separator = r"^ = [^=].* = $"
    options = dict(tokenizer=str(shared_data / "tokenizers" / "opt"), vocab_size=None, sequence_length=512)
    data = load(
        config(
            folder / "valid.txt.xz",
            validation_files=(f"{folder}/test.txt.xz",),
            document_separator=separator,
            **options,
        ),
        "clm",
    )
    assert (
        "60 training and 62 held-out documents" in data.description
    )  # 60 articles each; test has two look-alike lines
    assert data.tokenizer.decode(data.training[0][1:12]).startswith(" = Homarus gammarus = ")
