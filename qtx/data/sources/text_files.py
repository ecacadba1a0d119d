"""Local text files, plain or compressed, read into memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qtx.data.dataset import Data
from qtx.data.listing import expand
from qtx.data.objectives import TextObjective
from qtx.data.reading import check_separator, documents
from qtx.data.splitting import DEFAULT_FRACTION, split_by_name
from qtx.data.text import TextOptions
from qtx.foundation.errors import QtxError


@dataclass(frozen=True)
class TextFiles(TextOptions):
    """UTF-8 text files.

    Attributes:
      files: paths or globs (`**` too) of the training text, plain, `.gz`, `.xz` or `.zst`; each file is a document, or
        each line's `text` of a `.jsonl` file; a document of more than 4 million characters is cut at a line's end.
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
        check_separator(self.document_separator)

    def defaults(self, objective: TextObjective) -> dict[str, Any]:
        fraction = DEFAULT_FRACTION if self.validation_files is None else None
        return super().defaults(objective) | {"held_out_fraction": fraction}

    def load(self, objective: TextObjective) -> Data:
        mended = Counter[str]()
        training = read_documents(self.files, self.document_separator, mended)
        if self.validation_files is not None:
            held_out = read_documents(self.validation_files, self.document_separator, mended)
        else:
            fraction = self.resolved(objective).held_out_fraction
            remedy = (
                "set data.validation_files to held-out text, or data.document_separator to cut files into documents"
            )
            training, held_out = split_by_name(training, str, fraction or 0.0, "document", remedy)
        return self.make_data(f"text_files {' '.join(self.files)}", training, held_out, objective, mended)


def read_documents(patterns: Sequence[str], separator: str | None, mended: Counter[str] | None = None) -> list[str]:
    """Reads the documents of all files that `patterns` name, cut at `separator`, but for those of white space alone.
    `mended` counts what had to be mended in them (see `qtx.data.reading.whole`).

    Raises:
      QtxError: if there are no documents, or a file cannot be read.
    """
    texts = [text for path in expand(patterns) for text in documents(path, separator, mended)]
    if not texts:
        raise QtxError(f"no text in {' '.join(patterns)}: expected a file that is not empty")
    return texts
