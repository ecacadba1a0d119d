"""The common options of sources that read labelled text from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from qtx.data.objectives import TextObjective
from qtx.data.splitting import DEFAULT_FRACTION, held_out_count, split_by_name
from qtx.data.text import TokenizedOptions
from qtx.foundation.errors import QtxError

Row = TypeVar("Row")


@dataclass(frozen=True)
class LabelledFiles(TokenizedOptions):
    """Options of every source that reads labelled text from files.

    Attributes:
      files: paths or globs (`**` too) of the files to train on, in the source's own formats.
      validation_files: as `files`, to hold out; None holds out a part of `files`.
      held_out_fraction: share of the texts to hold out, None is 0.05; not taken with `validation_files`.
    """

    files: tuple[str, ...] = ()
    validation_files: tuple[str, ...] | None = None
    held_out_fraction: float | None = None

    named: ClassVar[str]
    """The source's name, and the kinds of its files, for messages."""
    formats: ClassVar[str]

    def __post_init__(self):
        super().__post_init__()
        if not self.files:
            raise QtxError(f"source {self.named} needs files: set data.files to paths or globs of {self.formats} files")
        if self.validation_files is not None and self.held_out_fraction is not None:
            raise QtxError("validation_files and held_out_fraction are both set: keep one, either holds out text")
        if self.held_out_fraction is not None:
            held_out_count(1, self.held_out_fraction)

    @property
    def held_out_files(self) -> tuple[str, ...] | None:
        """Returns the files of the held-out texts; None: some texts of `files` are held out."""
        return self.validation_files

    def defaults(self, objective: TextObjective) -> dict[str, Any]:
        fraction = DEFAULT_FRACTION if self.held_out_files is None else None
        return super().defaults(objective) | {"held_out_fraction": fraction}

    def with_held_out(
        self,
        training: Sequence[Row],
        read: Callable[[Sequence[str]], list[Row]],
        objective: TextObjective,
        text: Callable[[Row], str],
        what: str,
    ) -> tuple[Sequence[Row], Sequence[Row]]:
        """Returns the records to train on and those to hold out.

        Args:
          training: the records of `files`.
          read: reads the records of files that are held out.
          objective: what the records are for.
          text: gives a record's text, of which copies stay on one side.
          what: what to call a text in a message.

        Raises:
          QtxError: if there is only one text.
        """
        if self.held_out_files is not None:
            return training, read(self.held_out_files)
        fraction = self.resolved(objective).held_out_fraction
        return split_by_name(training, text, fraction or 0.0, what, f"set data.validation_files to held-out {what}s")


def check_any(rows: Sequence[Any], patterns: Sequence[str]) -> None:
    """Raises QtxError if files have nothing to read."""
    if not rows:
        raise QtxError(f"no text in {' '.join(patterns)}: expected a file that is not empty")
