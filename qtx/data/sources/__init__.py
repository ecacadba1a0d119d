"""Data sources: each a frozen dataclass of its options with `serves(objective)` and `load(objective) -> Data`."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from qtx.data.dataset import Data
from qtx.data.objectives import Objective
from qtx.data.prepared.writing import Written
from qtx.data.sources.bigram_backcopy import BigramBackcopy
from qtx.data.sources.choices import ChoiceQuestions
from qtx.data.sources.digits import Digits
from qtx.data.sources.idx import Idx
from qtx.data.sources.image_corpus import ImageCorpus
from qtx.data.sources.image_folder import ImageFolder
from qtx.data.sources.photographs import Photographs
from qtx.data.sources.questions import Questions
from qtx.data.sources.stdlib import Stdlib, StdlibLabels
from qtx.data.sources.text_corpus import TextCorpus
from qtx.data.sources.text_files import TextFiles
from qtx.data.sources.text_labels import TextLabels
from qtx.data.sources.text_windows import TextWindows
from qtx.data.sources.token_labels import TokenLabels


class Source(Protocol):
    """A registered data source; its dataclass fields are its options."""

    @staticmethod
    def serves(objective: Objective) -> bool:
        """Says whether the source's data are of the kind that an objective needs."""
        ...

    def load(self, objective: Any) -> Data:
        """Returns the data for an objective that the source serves.

        Raises:
          QtxError: saying in a line what is wrong with the data.
        """
        ...


@runtime_checkable
class PreparedSource(Protocol):
    """A source that keeps what it reads on disk."""

    def prepare(self, objective: Any) -> list[Written]:
        """Makes the datasets on disk that `load` reads, unless they exist."""
        ...


SOURCES: dict[str, type[Source]] = {
    "stdlib": Stdlib,
    "text_files": TextFiles,
    "text_corpus": TextCorpus,
    "text_windows": TextWindows,
    "text_labels": TextLabels,
    "token_labels": TokenLabels,
    "questions": Questions,
    "choices": ChoiceQuestions,
    "stdlib_labels": StdlibLabels,
    "digits": Digits,
    "photographs": Photographs,
    "idx": Idx,
    "image_folder": ImageFolder,
    "image_corpus": ImageCorpus,
    "bigram_backcopy": BigramBackcopy,
}
"""Data sources by the name that configs use."""
