"""Text prepared on disk: what is written, found again, made anew, resumed after a kill, and told when it fails."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import math
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import zstandard

from qtx.data import SOURCES, DataConfig, load, load_tokenizer, prepare_data
from qtx.data.packing import pack
from qtx.data.prepared import text
from qtx.data.prepared.documents import Part, clean_wiki40b, own_text
from qtx.data.prepared.writing import RECORD, write
from qtx.data.sources import TextCorpus, TextFiles
from qtx.foundation.errors import QtxError

from .samples import prose
from .tfds_samples import article, write_wiki40b

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def vocabulary(tmp_path) -> Path:
    """A BERT vocabulary of letters, so that no test waits for a tokenizer's training."""
    letters = [prefix + chr(ord("a") + i) for prefix in ("", "##") for i in range(26)]
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join([*BERT_SPECIALS, *letters, "."]))
    return file


@pytest.fixture
def config(text_folder, tmp_path, vocabulary):
    def make(**options) -> DataConfig:
        defaults = dict(
            corpora=(str(text_folder),), tokenizer=str(vocabulary), sequence_length=16, data_dir=str(tmp_path / "tfds")
        )
        return DataConfig(TextCorpus(**defaults | options))

    return make


def state_of(folder: Path) -> dict[str, int]:
    """Every file below a folder with the time of its last change."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def blocks(records) -> np.ndarray:
    return np.stack([records[i] for i in range(len(records))])


def test_the_blocks_are_those_of_packing_in_memory(config, text_folder, vocabulary):
    data = load(config(), "mlm")
    memory = load(
        DataConfig(TextFiles(files=(f"{text_folder}/*",), tokenizer=str(vocabulary), sequence_length=16)),
        "mlm",
    )
    for records, expected in ((data.training, memory.training), (data.held_out, memory.held_out)):
        np.testing.assert_array_equal(blocks(records), expected)
        assert records[0].dtype == np.int32


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_a_batch_boundary_is_no_boundary_of_blocks(config, text_folder, vocabulary, objective, monkeypatch):
    monkeypatch.setattr(text, "BATCH_CHARACTERS", 100)
    data = load(config(validation_corpora=(f"{text_folder}/0.txt",)), objective)
    tokenizer = load_tokenizer(vocabulary)
    documents = tokenizer.encode([path.read_text() for path in sorted(text_folder.iterdir())])
    length = 16 if objective == "mlm" else 17
    np.testing.assert_array_equal(blocks(data.training), pack(documents, tokenizer.start, tokenizer.end, length, "all"))
    assert len(data.held_out) == len(pack(documents[:1], tokenizer.start, tokenizer.end, length, "first"))


def test_anyone_can_read_it(config):
    (written,) = prepare_data(config(), "mlm")
    builder = tfds.builder_from_directory(written.folder)
    source = builder.as_data_source("train")
    assert len(source) == written.splits["train"]["blocks"] == builder.info.splits["train"].num_examples
    assert source[0]["tokens"].dtype == np.uint16 and source[0]["tokens"].shape == (16,)
    np.testing.assert_array_equal(source[5]["tokens"], load(config(), "mlm").training[5])
    by_name = tfds.builder(f"qtx_text/{written.folder.parent.name}", data_dir=written.folder.parents[2])
    assert by_name.info.splits["validation"].num_examples == written.splits["validation"]["blocks"]


def test_a_large_vocabulary_takes_four_bytes(config, tmp_path, vocabulary):
    many = [f"w{i}" for i in range(70_000)]
    vocabulary.write_text("\n".join([*BERT_SPECIALS, *many]))
    (tmp_path / "texts" / "0.txt").write_text("w69999 " * 200)
    data = load(config(), "mlm")
    assert 70_004 in np.concatenate([blocks(data.training), blocks(data.held_out)])


def test_found_again_and_nothing_written(config, tmp_path):
    (first,) = prepare_data(config(), "mlm")
    before = state_of(tmp_path / "tfds")
    (second,) = prepare_data(config(), "mlm")
    load(config(), "mlm")
    assert state_of(tmp_path / "tfds") == before
    assert first.seconds > 0 and second.seconds is None and first.folder == second.folder


def test_a_trained_tokenizer_is_kept(config, tmp_path):
    options = dict(tokenizer="wordpiece", vocab_size=120)
    first = load(config(**options), "mlm")
    before = state_of(tmp_path / "tfds")
    second = load(config(**options), "mlm")
    assert state_of(tmp_path / "tfds") == before
    assert first.tokenizer.backend.to_str() == second.tokenizer.backend.to_str()


def change_a_byte(folder: Path) -> None:
    (folder / "3.txt").write_text((folder / "3.txt").read_text().replace("a", "b", 1))


CHANGES = {
    "a byte of the corpus": lambda folder, vocabulary: change_a_byte(folder),
    "a file more": lambda folder, vocabulary: (folder / "x.md").write_text("more text"),
    "the tokenizer": lambda folder, vocabulary: vocabulary.write_text(vocabulary.read_text() + "\nnew"),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_made_anew_after_a_change(config, text_folder, vocabulary, change):
    (before,) = prepare_data(config(), "mlm")
    CHANGES[change](text_folder, vocabulary)
    (after,) = prepare_data(config(), "mlm")
    assert after.folder != before.folder and after.seconds is not None


@pytest.mark.parametrize(
    "options",
    [
        {"sequence_length": 32},
        {"held_out_fraction": 0.3},
        {"document_separator": r"\n"},
        {"validation_corpora": ("0.txt",)},
    ],
)
def test_made_anew_for_other_options(config, text_folder, options):
    if "validation_corpora" in options:
        options = {"validation_corpora": tuple(str(text_folder / name) for name in options["validation_corpora"])}
    before = {written.folder for written in prepare_data(config(), "mlm")}
    assert not before & {written.folder for written in prepare_data(config(**options), "mlm")}


def test_what_does_not_change_the_blocks_is_found(config, text_folder, tmp_path):
    (first,) = prepare_data(config(), "mlm")
    shutil.move(text_folder, tmp_path / "moved")
    (tmp_path / "moved" / "picture.png").write_bytes(b"ignored")
    options = dict(corpora=(str(tmp_path / "moved"),), mask_probability=0.3, document_attention=True)
    (second,) = prepare_data(config(**options), "mlm")
    assert second.folder == first.folder and second.seconds is None


def test_a_folder_with_links_hidden_files_and_other_formats(config, text_folder, tmp_path):
    (first,) = prepare_data(config(), "mlm")
    (tmp_path / "real").mkdir()
    for i in (0, 4, 8):
        shutil.move(text_folder / f"{i}.txt", tmp_path / "real" / f"{i}.txt")
        (text_folder / f"{i}.txt").symlink_to(tmp_path / "real" / f"{i}.txt")
    (text_folder / "all again").symlink_to(tmp_path / "real")
    (text_folder / "circle").symlink_to(text_folder)
    (text_folder / "._0.txt").write_bytes(b"\0")
    for name in ("a.csv", "b.CSV", "c.webp"):
        (text_folder / name).write_text("x")
    (text_folder / "lost.txt").symlink_to("nowhere")
    data = load(config(), "mlm")
    (second,) = prepare_data(config(), "mlm")
    assert second.folder == first.folder and second.seconds is None
    assert data.description.endswith(f"; of {text_folder} 4 files left out: 2 .csv, 1 .webp, 1 broken link")


def mixture(folder: Path, **corpora: range) -> tuple[str, ...]:
    for name, seeds in corpora.items():
        (folder / name).mkdir()
        for seed in seeds:
            (folder / name / f"{seed}.txt").write_text(prose(seed, 60))
    return tuple(str(folder / name) for name in corpora)


def documents_in(written, split: str, vocabulary: Path) -> set[str]:
    """The documents whose blocks a prepared dataset holds, as the text between their ends."""
    tokenizer = load_tokenizer(vocabulary)
    source = tfds.builder_from_directory(written.folder).as_data_source(split)
    stream = np.concatenate([source[i]["tokens"][1:] for i in range(len(source))])
    ends = np.flatnonzero(stream == tokenizer.end)
    return {tokenizer.decode(piece) for piece in np.split(stream, ends + 1)[:-1]}


def test_a_document_of_two_corpora_is_on_one_side(config, tmp_path, vocabulary):
    """20 of 30 and of 60 documents are the same: some that are below one corpus's threshold are above the other's."""
    corpora = mixture(tmp_path, small=range(30), large=range(10, 70))
    options = dict(corpora=corpora, held_out_fraction=0.3)
    prepared = prepare_data(config(**options), "mlm")
    trained, held_out = (
        set.union(*(documents_in(written, split, vocabulary) for written in prepared))
        for split in ("train", "validation")
    )
    assert len(held_out) >= 15 and len(trained) >= 40 and not trained & held_out
    # By hand: each corpus holds out its 30 % with the smallest SHA-256.
    texts = [{prose(seed, 60) for seed in seeds} for seeds in (range(30), range(10, 70))]
    ranked = [sorted(own, key=lambda text: hashlib.sha256(text.encode()).digest()) for own in texts]
    held = [set(order[: math.ceil(0.3 * len(order))]) for order in ranked]
    withheld = [len((texts[i] - held[i]) & held[1 - i]) for i in (0, 1)]
    assert sum(withheld) and [w.splits["train"]["withheld"] for w in prepared] == withheld
    expected = f"documents left out of training, as they are held out elsewhere: {max(withheld)}"
    assert expected in load(config(**options), "mlm").description


def test_what_is_named_as_held_out_is_not_taken_out_of_training_but_told(config, tmp_path, vocabulary):
    corpora = mixture(tmp_path, books=range(30), other=range(24, 40))
    options = dict(corpora=corpora[:1], validation_corpora=corpora[1:])
    alone, other = prepare_data(config(**options), "mlm")
    assert alone.splits["train"]["documents"] == 30 and other.splits["validation"]["copies"] == 6
    assert "held-out texts that are in training too: 6" in load(config(**options), "mlm").description
    memory = TextFiles(files=(f"{corpora[0]}/*",), validation_files=(f"{corpora[1]}/*",), tokenizer=str(vocabulary))
    assert "held-out texts that are in training too: 6" in load(DataConfig(memory), "mlm").description


def test_a_document_of_a_dataset_that_it_holds_out_itself(config, tmp_path):
    """Of wiki40b, and of one's own text that has some of its validation articles."""
    data_dir = tmp_path / "tfds"
    write_wiki40b(data_dir)
    folder = tmp_path / "own"
    folder.mkdir()
    for i in range(30, 60):  # 40 to 45 are its validation articles
        (folder / f"{i}.txt").write_text(clean_wiki40b(article(i)))
    wiki, own = prepare_data(config(corpora=("tfds:wiki40b/en", str(folder)), data_dir=str(data_dir)), "mlm")
    texts = {i: clean_wiki40b(article(i)) for i in range(30, 60)}
    held = sorted(texts, key=lambda i: hashlib.sha256(texts[i].encode()).digest())[:2]
    assert own.splits["train"]["withheld"] == 6 - sum(40 <= i < 46 for i in held)
    assert wiki.splits["train"]["withheld"] == sum(i < 40 for i in held)


def plan(folder: Path, vocabulary: Path, data_dir: Path):
    parts = {"train": Part(own_text(str(folder), None, str(data_dir)))}
    return text.text_layout(parts, load_tokenizer(vocabulary), 16, str(data_dir))


CHILD = """
import sys, time
from pathlib import Path
import tests.data.test_data_prepared_text as this
this.slowly(*map(Path, sys.argv[1:]))
"""


def slowly(folder: Path, vocabulary: Path, data_dir: Path) -> None:
    """Writes small shards with a pause for each, for another process to kill."""
    text.BATCH_CHARACTERS = 3000
    made = plan(folder, vocabulary, data_dir)
    produce = made.splits["train"].produce

    def paused(state):
        for batch in produce(state):
            time.sleep(0.2)
            yield batch

    object.__setattr__(made.splits["train"], "produce", paused)
    write(made, shard_bytes=4000)


@pytest.mark.slow
def test_killed_it_goes_on_after_the_last_finished_shard(text_folder, vocabulary, tmp_path, monkeypatch):
    interrupted = plan(text_folder, vocabulary, tmp_path / "killed")
    partial = interrupted.folder.with_name("incomplete.1.0.0")
    arguments = [sys.executable, "-c", CHILD, *map(str, (text_folder, vocabulary, tmp_path / "killed"))]
    child = subprocess.Popen(arguments, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not (partial / RECORD).is_file() or len(json.loads((partial / RECORD).read_text())["train"]["shards"]) < 2:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    record = json.loads((partial / RECORD).read_text())["train"]
    finished = [partial / f"qtx_text-train.array_record-{i:05d}" for i in range(len(record["shards"]))]
    before = {file.name: file.stat().st_mtime_ns for file in finished}
    assert not interrupted.folder.exists() and not record["finished"]

    monkeypatch.setattr(text, "BATCH_CHARACTERS", 3000)
    write(interrupted, shard_bytes=4000)
    assert {name: (interrupted.folder / name).stat().st_mtime_ns for name in before} == before
    whole = plan(text_folder, vocabulary, tmp_path / "whole")
    write(whole)
    read = [tfds.builder_from_directory(p.folder).as_data_source("train") for p in (interrupted, whole)]
    assert len(read[0]) == len(read[1])
    for i in range(len(read[0])):
        np.testing.assert_array_equal(read[0][i]["tokens"], read[1][i]["tokens"])
    assert len(list(interrupted.folder.glob("*.array_record*"))) > len(before)
    assert not partial.exists()


def test_killed_before_the_folder_got_its_name_it_is_only_named(config):
    (written,) = prepare_data(config(), "mlm")
    shards = {file.name: file.stat().st_mtime_ns for file in written.folder.glob("*.array_record*")}
    written.folder.rename(written.folder.with_name("incomplete.1.0.0"))
    (again,) = prepare_data(config(), "mlm")
    assert again.seconds is not None and again.splits == written.splits
    assert {name: (written.folder / name).stat().st_mtime_ns for name in shards} == shards


def test_two_at_once_write_it_once(config):
    config()  # the fixture's folders, before the threads
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: prepare_data(config(), "mlm")[0], range(2)))
    assert sorted(result.seconds is None for result in results) == [False, True]
    assert results[0].splits == results[1].splits


@contextmanager
def file_size_limit(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_leaves_nothing_to_be_seen(config, tmp_path):
    with (
        file_size_limit(20_000),
        pytest.raises(QtxError, match=r"cannot write .*make room or set data.data_dir") as error,
    ):
        prepare_data(config(), "mlm")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "tfds" / "qtx_text").glob("*/1.0.0"))
    (written,) = prepare_data(config(), "mlm")
    assert written.splits["train"]["documents"] == 9


def test_a_data_dir_that_is_a_file(config, text_folder):
    with pytest.raises(QtxError, match="cannot write .*set data.data_dir to a folder"):
        prepare_data(config(data_dir=str(text_folder / "0.txt")), "mlm")


@pytest.mark.parametrize(("missing", "message"), [("*-train*", "damaged: no .*train"), (RECORD, "no file .*" + RECORD)])
def test_a_damaged_dataset(config, missing, message):
    (written,) = prepare_data(config(), "mlm")
    next(written.folder.glob(missing)).unlink()
    with pytest.raises(QtxError, match=f"{message}.*delete the "):
        load(config(), "mlm")


def corpus_file(name: str, content: str | bytes):
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(folder / name)

    return make


BAD = {
    "no such place": (lambda folder: str(folder / "none"), "there is no file .*none"),
    "an empty folder": (
        lambda folder: str((folder / "empty").mkdir() or folder / "empty"),
        "no text in folder .*.jsonl",
    ),
    "another kind of file": (corpus_file("x.pdf", "%PDF"), "x.pdf is no text: expected .txt, .md, .jsonl"),
    "an empty file": (corpus_file("x.txt", ""), "the train text has 0 tokens"),
    "one document": (corpus_file("x.txt", "one two three"), r"1 distinct document\(s\).*set data.validation_corpora"),
    "a line that is no JSON": (corpus_file("x.jsonl", '{"text": "a"}\nb\n'), r"x.jsonl, line 2: not JSON"),
    "a line without text": (corpus_file("x.jsonl", '{"text": "a"}\n\n{"txt": 1}'), 'x.jsonl, line 3: no "text"'),
    "a broken archive": (corpus_file("x.txt.zst", b"(\xb5/\xfd broken"), "cannot read .*x.txt.zst"),
    "not UTF-8": (corpus_file("x.md", b"caf\xe9 noir"), "x.md is not UTF-8 text: byte 0xe9 at offset 3"),
    "too little": (corpus_file("x.jsonl", '{"text": "a"}\n{"text": "b"}'), "the train text has 2 tokens, fewer than"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_corpora_that_cannot_be(config, tmp_path, case):
    make, message = BAD[case]
    with pytest.raises(QtxError, match=message) as error:
        load(config(corpora=(make(tmp_path),)), "mlm")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corpora": ()}, "needs corpora"),
        ({"weights": (1.0, 2.0)}, "weights has 2 numbers for 1 corpora"),
        ({"weights": (0.0,)}, "weights has 0.0: expected positive numbers"),
        ({"weights": ("x",)}, "weights has 'x'"),
        ({"held_out_fraction": 0.9}, "held_out_fraction is 0.9"),
        ({"held_out_fraction": 0.1, "validation_corpora": ("x",)}, "both set"),
        ({"document_separator": "("}, "no regular expression"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(QtxError, match=message):
        DataConfig(TextCorpus(**{"corpora": ("x",)} | options))


def test_options_that_do_not_fit_the_objective(config):
    with pytest.raises(QtxError, match="mask_probability is set"):
        load(config(mask_probability=0.2), "clm")
    with pytest.raises(QtxError, match="needs a tokenizer with"):
        load(config(tokenizer="bpe", vocab_size=280), "mlm")


@pytest.mark.parametrize("source", ["stdlib", "bigram_backcopy"])
def test_what_needs_no_preparation(source):
    with pytest.raises(QtxError, match="needs no preparation.*text_corpus, image_corpus"):
        prepare_data(DataConfig(SOURCES[source]()), "clm")


def test_json_lines_and_every_compression_are_the_same_documents(config, tmp_path):
    texts = [prose(i, 40) for i in range(12)]
    lines = "\n".join(json.dumps({"text": t, "id": i}) for i, t in enumerate(texts)).encode()
    found = []
    for suffix, compress in (("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.compress)):
        file = tmp_path / f"corpus.jsonl{suffix}"
        file.write_bytes(compress(lines))
        found.append(blocks(load(config(corpora=(str(file),)), "mlm").training))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
