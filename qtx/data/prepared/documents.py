"""Corpora as streams of documents: your own text files, or a TFDS dataset; and which documents are held out."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qtx.data.prepared.fingerprints import content_hash
from qtx.data.reading import TABLE, TEXT_SUFFIXES, check_separator, documents, expand, text_kind
from qtx.data.splitting import held_out_count
from qtx.data.tfds_datasets import PREFIX, TRAINING_SPLIT, find_dataset
from qtx.foundation.errors import QtxError

WIKI40B_MARKUP = re.compile(r"\n?_START_(?:ARTICLE|SECTION|PARAGRAPH)_\n")


@dataclass(frozen=True)
class Documents:
    """Documents in a fixed order.

    Attributes:
      name: for people.
      fingerprint: another one when a document changes; names of files do not matter, their order does.
      read: the documents from the n-th on.
      count: how many there are, None if not known without reading them.
    """

    name: str
    fingerprint: str
    read: Callable[[int], Iterator[str]] = field(repr=False)
    count: int | None = None


@dataclass(frozen=True)
class Part:
    """The documents of a corpus that belong to one split.

    Attributes:
      documents: the corpus.
      fraction: share of its distinct documents to hold out; None takes them all.
      held_out: whether these are the ones held out.
    """

    documents: Documents
    fraction: float | None = None
    held_out: bool = False

    @property
    def fingerprint(self) -> list:
        """Of JSON types; another one when other documents belong to the part."""
        return [self.documents.fingerprint, self.fraction, self.held_out]

    def selects(self, text: str) -> bool:
        """Whether a document of the corpus belongs to this part."""
        if self.fraction is None:
            return True
        return (_rank(text) <= highest_held_out(self.documents, self.fraction)) == self.held_out


@functools.cache
def highest_held_out(corpus: Documents, fraction: float) -> int:
    """The rank up to which documents are held out; reads the corpus once.

    Raises:
      QtxError: for a fraction out of range, or a corpus of one document.
    """
    ranks = np.unique(np.array(array("Q", map(_rank, corpus.read(0))), np.uint64))
    if len(ranks) < 2:
        raise QtxError(
            f"{corpus.name} has {len(ranks)} distinct document(s), too few to hold some out: set "
            "data.validation_corpora, or data.document_separator to cut files into documents"
        )
    return int(ranks[held_out_count(len(ranks), fraction) - 1])


def _rank(text: str) -> int:
    # By its own text: the split is the same wherever the files lie, and copies stay on one side.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def own_text(corpus: str, separator: str | None, data_dir: str) -> Documents:
    """The documents of a folder (with all below it), glob or file.

    Of a folder, files other than .txt, .md and .jsonl (plain, .gz, .xz or .zst) are ignored.

    Raises:
      QtxError: when there are none, or a path or glob names a file of another kind.
    """
    check_separator(separator)
    folder = Path(corpus).expanduser()
    if folder.is_dir():
        files = sorted(str(path) for path in folder.rglob("*") if path.is_file() and text_kind(path) in TEXT_SUFFIXES)
        if not files:
            raise QtxError(f"no text in folder {corpus}: expected {', '.join(TEXT_SUFFIXES)} (or with .gz, .xz, .zst)")
    else:
        files = expand([str(folder)])
        other = next((file for file in files if text_kind(file) not in TEXT_SUFFIXES), None)
        if other:
            raise QtxError(
                f"{other} is no text: expected {', '.join(TEXT_SUFFIXES)}, plain or with .gz, .xz or .zst; source "
                f"text_labels reads texts with labels ({TABLE})"
            )

    def read(start: int) -> Iterator[str]:
        found = (text for file in files for text in documents(file, separator))
        return itertools.islice(found, start, None)

    named = [(text_kind(file), Path(file)) for file in files]
    return Documents(corpus, content_hash(named, data_dir) + f" {separator}", read)


def tfds_text(name: str, split: str, data_dir: str) -> Documents:
    """The documents of a TFDS dataset's split: its feature `text`. Of wiki40b's, the markup is taken out.

    Raises:
      QtxError: when the dataset or split is not there, or has no text.
    """
    dataset = find_dataset(name, data_dir)
    if "text" not in dataset.features:
        raise QtxError(f"TFDS dataset {name} has no feature text: found {', '.join(dataset.features)}")
    clean = clean_wiki40b if dataset.name.startswith("wiki40b/") else str
    records = dataset.records(split, lambda example: clean(example["text"].decode()))

    def read(start: int) -> Iterator[str]:
        return (records[i] for i in range(start, len(records)))

    return Documents(f"{PREFIX}{dataset.name} {split}", dataset.fingerprint(split), read, len(records))


def clean_wiki40b(text: str) -> str:
    """An article of wiki40b as plain text: titles on lines of their own, paragraphs' breaks as line breaks."""
    return WIKI40B_MARKUP.sub("\n", text).replace("_NEWLINE_", "\n").strip("\n")


def corpus_parts(corpus: str, held_out_fraction: float | None, separator: str | None, data_dir: str) -> dict[str, Part]:
    """Split name to documents of one corpus.

    Args:
      corpus: `tfds:NAME`, or a folder, glob or file.
      held_out_fraction: None: only `train`, with everything that is not held out by TFDS. Otherwise also `validation`:
        TFDS's own `validation`, else its `test` split, where there is one, else this share of the documents.
      separator: see `qtx.data.reading.documents`.
      data_dir: where TFDS datasets are.
    """
    if not corpus.startswith(PREFIX):
        whole = own_text(corpus, separator, data_dir)
    else:
        name = corpus.removeprefix(PREFIX)
        whole = tfds_text(name, TRAINING_SPLIT, data_dir)
        own_split = find_dataset(name, data_dir).held_out_split
        if held_out_fraction is not None and own_split is not None:
            return {"train": Part(whole), "validation": Part(tfds_text(name, own_split, data_dir))}
    if held_out_fraction is None:
        return {"train": Part(whole)}
    return {
        "train": Part(whole, held_out_fraction),
        "validation": Part(whole, held_out_fraction, held_out=True),
    }


def validation_parts(corpus: str, separator: str | None, data_dir: str) -> dict[str, Part]:
    """The split `validation` alone: TFDS's own held-out one where there is one, else all documents of the corpus."""
    if not corpus.startswith(PREFIX):
        return {"validation": Part(own_text(corpus, separator, data_dir))}
    name = corpus.removeprefix(PREFIX)
    split = find_dataset(name, data_dir).held_out_split or TRAINING_SPLIT
    return {"validation": Part(tfds_text(name, split, data_dir))}
