"""Local text files, plain or compressed with gzip or xz."""

from __future__ import annotations

import glob
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qtx.data.dataset import Data
from qtx.data.text import Document, TextOptions, split_documents
from qtx.errors import QtxError

DEFAULT_HELD_OUT_FRACTION = 0.05
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.decompress, ".xz": lzma.decompress}


@dataclass(frozen=True)
class TextFiles(TextOptions):
    """UTF-8 text files.

    Attributes:
      files: paths or globs (`**` too) of the training text, plain, `.gz` or `.xz`; each file is a document.
      validation_files: paths or globs of the held-out text; None splits the documents of `files`.
      held_out_fraction: share of the documents to hold out, None is 0.05; not taken with `validation_files`.
      document_separator: regular expression (multi-line mode) at whose matches a new document begins, the match
        included; e.g. `^ = [^=].* = $` for WikiText's titles, `\\n\\n` for paragraphs. None keeps files whole.
    """

    files: tuple[str, ...] = ()
    validation_files: tuple[str, ...] | None = None
    held_out_fraction: float | None = None
    document_separator: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.files:
            raise QtxError("source text_files needs files: set data.files to paths or globs of text files")
        if self.validation_files is not None and self.held_out_fraction is not None:
            raise QtxError("validation_files and held_out_fraction are both set: keep one, either holds out text")
        try:
            re.compile(self.document_separator or "")
        except re.error as error:
            raise QtxError(
                f"document_separator {self.document_separator!r} is no regular expression: {error}"
            ) from None

    def load(self, objective: str) -> Data:
        documents = read_documents(self.files, self.document_separator)
        if self.validation_files is not None:
            training = [document.text for document in documents]
            held_out = [document.text for document in read_documents(self.validation_files, self.document_separator)]
        else:
            fraction = DEFAULT_HELD_OUT_FRACTION if self.held_out_fraction is None else self.held_out_fraction
            remedy = (
                "set data.validation_files to held-out text, or data.document_separator to cut files into documents"
            )
            training, held_out = split_documents(documents, fraction, remedy)
        return self.make_data(f"text_files {' '.join(self.files)}", training, held_out, objective)


def read_documents(patterns: Sequence[str], separator: str | None) -> list[Document]:
    """The documents of all files that `patterns` name, cut at `separator`; those of white space alone are left out.

    Raises:
      QtxError: when there are none, or a file cannot be read.
    """
    texts = [read_text(path) for path in expand(patterns)]
    if separator is not None:
        texts = [piece for text in texts for piece in cut(text, separator)]
    # Named by its own text: the split is the same wherever the files lie, and copies stay on one side.
    documents = [Document(text, text) for text in texts if text.strip()]
    if not documents:
        raise QtxError(f"no text in {' '.join(patterns)}: expected a file that is not empty")
    return documents


def expand(patterns: Sequence[str]) -> list[str]:
    """The files that paths and globs name, sorted, each once.

    Raises:
      QtxError: for a pattern that matches no file.
    """
    found: set[str] = set()
    for pattern in patterns:
        matches = [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]
        if not matches:
            raise QtxError(f"no file matches {pattern!r} (in {Path.cwd()}): expected a path or glob of text files")
        found.update(matches)
    return sorted(found)


def read_text(path: str) -> str:
    """The text of a UTF-8 file, decompressed by its suffix `.gz` or `.xz`.

    Raises:
      QtxError: for a file that cannot be read or decompressed, or is not UTF-8 (naming the byte).
    """
    try:
        content = DECOMPRESS.get(Path(path).suffix, bytes)(Path(path).read_bytes())
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise QtxError(f"cannot read {path}: {error}") from error
    if b"\0" in content:
        raise QtxError(f"{path} is not text: zero byte at offset {content.index(0):,}; unpack an archive first")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise QtxError(
            f"{path} is not UTF-8 text: byte 0x{content[error.start]:02x} at offset {error.start:,}; "
            "convert the file, e.g. with iconv -t UTF-8"
        ) from None


def cut(text: str, separator: str) -> list[str]:
    """Cuts a text before every match of a regular expression (multi-line mode); newlines at the pieces' ends go."""
    starts = [match.start() for match in re.finditer(separator, text, re.MULTILINE)]
    bounds = [0, *starts, len(text)]
    return [text[begin:end].strip("\n") for begin, end in zip(bounds, bounds[1:], strict=False)]
