"""Corpora as streams of documents: your own text files, or a TFDS dataset; and which documents are held out."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from qtx.data.listing import BROKEN_LINK, entries, expand, kind_of, printable
from qtx.data.notes import COPIES, WITHHELD, left_out
from qtx.data.prepared.fingerprints import content_hash
from qtx.data.reading import TABLE, TEXT_SUFFIXES, decoded, documents, text_kind
from qtx.data.splitting import held_out_count
from qtx.data.tfds_datasets import PREFIX, TRAINING_SPLIT, find_dataset
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home

WIKI40B_MARKUP = re.compile(r"\n?_START_(?:ARTICLE|SECTION|PARAGRAPH)_\n")


@dataclass(frozen=True)
class Documents:
    """Documents in a fixed order.

    Attributes:
      name: the corpus's name, for people.
      fingerprint: a hash that changes with the documents and their order, but not with the names of files.
      read: yields the documents from the n-th on; counts what had to be mended in them (see `qtx.data.reading.whole`).
      count: number of documents, None if not known without reading them.
      left_out: which files of the corpus were left out, in words.
    """

    name: str
    fingerprint: str
    read: Callable[[int, Counter[str]], Iterator[str]] = field(repr=False)
    count: int | None = None
    left_out: str = ""


@dataclass(frozen=True)
class Part:
    """The documents of a corpus that belong to one split.

    Attributes:
      documents: the corpus.
      fraction: share of the corpus's distinct documents to hold out; None takes all documents.
      held_out: whether this part has the documents that are held out.
      without: parts of other corpora, or of other splits, whose documents do not belong to this one.
      beside: parts whose documents may belong to this one too; such copies are counted.
    """

    documents: Documents
    fraction: float | None = None
    held_out: bool = False
    without: tuple[Part, ...] = ()
    beside: tuple[Part, ...] = ()

    @property
    def fingerprint(self) -> list:
        """Returns a value of JSON types that changes when other documents belong to the part."""
        own = [self.documents.fingerprint, self.fraction, self.held_out]
        return [*own, [part.fingerprint for part in self.without]] if self.without else own

    def chosen(self, texts: Iterable[str], counts: Counter[str] | None = None) -> list[str]:
        """Returns those of the corpus's documents that belong to this part.

        Args:
          texts: some documents of the corpus.
          counts: `WITHHELD` grows by the number of texts that only `without` keeps away, `COPIES` by the number that
            belong to `beside` too.
        """
        own = [text for text in texts if self.fraction is None or (_rank(text) <= self._highest) == self.held_out]
        kept = [text for text in own if not _among(text, self.without)]
        if counts is not None:
            counts[WITHHELD] += len(own) - len(kept)
            counts[COPIES] += sum(_among(text, self.beside) for text in kept)
        return kept

    def stream(self) -> Iterator[str]:
        """Yields the documents of this part."""
        return (chosen for text in self.documents.read(0, Counter()) for chosen in self.chosen([text]))

    @property
    def _highest(self) -> int:
        """Returns the highest rank of a held-out document."""
        return int(ranks(Part(self.documents, self.fraction, held_out=True))[-1])


@functools.cache
def ranks(part: Part) -> np.ndarray:
    """Returns the ranks of a part's distinct documents, uint64, ascending; reads the corpus once.

    Raises:
      QtxError: for a fraction out of range, or a corpus of one document.
    """
    found = np.unique(np.array(array("Q", map(_rank, part.documents.read(0, Counter()))), np.uint64))
    if part.fraction is None:
        return found
    if len(found) < 2:
        raise QtxError(
            f"{part.documents.name} has {len(found)} distinct document(s), too few to hold some out: set "
            "data.validation_corpora, or data.document_separator to cut files into documents"
        )
    count = held_out_count(len(found), part.fraction)
    return found[:count] if part.held_out else found[count:]


def _among(text: str, parts: tuple[Part, ...]) -> bool:
    if not parts:
        return False
    known, rank = _union(parts), np.uint64(_rank(text))
    place = np.searchsorted(known, rank)
    return bool(place < len(known) and known[place] == rank)


@functools.cache
def _union(parts: tuple[Part, ...]) -> np.ndarray:
    return np.unique(np.concatenate([ranks(part) for part in parts]))


def _rank(text: str) -> int:
    # A hash of the text alone: the split is the same wherever the files lie, and copies stay on one side.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def own_text(corpus: str, separator: str | None, data_dir: str) -> Documents:
    """Returns the documents of a folder (with all below it), glob or file.

    Files of a folder other than .txt, .md and .jsonl (plain, .gz, .xz or .zst) are left out, and counted.

    Raises:
      QtxError: if there is no such file, or a path or glob names a file of another kind.
    """
    folder, told = at_home(corpus), ""
    if folder.is_dir():
        listed = [path for name, path in entries(folder) if not name.endswith("/")]
        files = sorted(str(path) for path in listed if path.is_file() and text_kind(path) in TEXT_SUFFIXES)
        others = set(map(str, listed)) - set(files)
        told = left_out(Counter(kind_of(path) if Path(path).exists() else BROKEN_LINK for path in others))
        if not files:
            raise QtxError(
                f"no text in folder {corpus}{told and f' ({told})'}: expected {', '.join(TEXT_SUFFIXES)} (or with .gz, "
                ".xz, .zst)"
            )
    else:
        files = expand([corpus])
        other = next((file for file in files if text_kind(file) not in TEXT_SUFFIXES), None)
        if other:
            raise QtxError(
                f"{other} is no text: expected {', '.join(TEXT_SUFFIXES)}, plain or with .gz, .xz or .zst; source "
                f"text_labels reads texts with labels ({TABLE})"
            )

    def read(start: int, mended: Counter[str]) -> Iterator[str]:
        found = (text for file in files for text in documents(file, separator, mended))
        counted = mended.copy()
        for _ in itertools.islice(found, start):
            pass
        mended.clear()  # what was mended in the skipped documents has been counted
        mended.update(counted)
        yield from found

    named = [(text_kind(file), Path(file)) for file in files]
    return Documents(printable(corpus), content_hash(named, data_dir) + f" {separator}", read, left_out=told)


def tfds_text(name: str, split: str, data_dir: str) -> Documents:
    """Returns the documents of a TFDS dataset's split: its feature `text`, for wiki40b without the markup.

    Raises:
      QtxError: when the dataset or split is not there, or has no text.
    """
    dataset = find_dataset(name, data_dir)
    if "text" not in dataset.features:
        raise QtxError(f"TFDS dataset {name} has no feature text: found {', '.join(dataset.features)}")
    clean = clean_wiki40b if dataset.name.startswith("wiki40b/") else str
    records = dataset.records(split, lambda example: example["text"])

    def read(start: int, mended: Counter[str]) -> Iterator[str]:
        return (clean(decoded(records[i], f"{dataset.folder}, record {i}", mended)) for i in range(start, len(records)))

    return Documents(f"{PREFIX}{dataset.name} {split}", dataset.fingerprint(split), read, len(records))


def clean_wiki40b(text: str) -> str:
    """Makes plain text of an article of wiki40b: titles on lines of their own, paragraphs' breaks as line breaks."""
    return WIKI40B_MARKUP.sub("\n", text).replace("_NEWLINE_", "\n").strip("\n")


def corpus_parts(corpus: str, held_out_fraction: float | None, separator: str | None, data_dir: str) -> dict[str, Part]:
    """Returns the parts of one corpus by split name.

    Args:
      corpus: `tfds:NAME`, or a folder, glob or file.
      held_out_fraction: None: only `train`, for TFDS the dataset's own split of that name. Otherwise also `validation`:
        TFDS's own `validation`, else its `test` split, where there is one, else this share of the documents.
      separator: see `qtx.data.reading.documents`.
      data_dir: the folder of TFDS datasets.
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
    """Returns the split `validation` alone: TFDS's own held-out split if there is one, else the whole corpus."""
    if not corpus.startswith(PREFIX):
        return {"validation": Part(own_text(corpus, separator, data_dir))}
    name = corpus.removeprefix(PREFIX)
    split = find_dataset(name, data_dir).held_out_split or TRAINING_SPLIT
    return {"validation": Part(tfds_text(name, split, data_dir))}


def without_held_out(corpora: Sequence[Mapping[str, Part]]) -> list[dict[str, Part]]:
    """Returns the splits of corpora such that no corpus trains on a document that one of them holds out."""
    held_out = [splits["validation"] for splits in corpora if "validation" in splits]

    def rest(part: Part) -> Part:  # what the corpus itself holds out is kept away by its threshold
        return replace(part, without=tuple(other for other in held_out if other.documents is not part.documents))

    return [{**splits, "train": rest(splits["train"])} for splits in corpora]


def beside_training(
    held_out: Sequence[Mapping[str, Part]], corpora: Sequence[Mapping[str, Part]]
) -> list[dict[str, Part]]:
    """Returns the splits of corpora named as held out; their documents that are also trained on will be counted."""
    training = tuple(splits["train"] for splits in corpora)
    return [{split: replace(part, beside=training) for split, part in splits.items()} for splits in held_out]
