"""Texts as perplexity is measured: joined, tokenized as a whole, and cut into windows at a stride."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from qtx.data.dataset import Data
from qtx.data.labelled_files import LabelledFiles, check_any
from qtx.data.listing import expand
from qtx.data.objectives import CausalLanguageModelling, TextObjective
from qtx.data.reading import whole_documents
from qtx.data.windows import Cut, make_windowed_data
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import at_least


@dataclass(frozen=True)
class TextWindows(LabelledFiles):
    """UTF-8 texts, each file a document, or each line's `text` of a `.jsonl` file, of which none is left out; plain or
    compressed. In every window of `sequence_length` tokens only those count that no window before it has.

    Attributes:
      stride: tokens from the beginning of one window to that of the next; None: windows do not overlap.
      begin_windows: whether every window begins with the tokenizer's first token, e.g. `<s>`; otherwise the whole text
        has around it what the tokenizer puts there, and the first token of a window alone is not predicted.
      joint: the text between two documents.
    """

    stride: Annotated[int | None, at_least(1)] = None
    begin_windows: bool = False
    joint: str = "\n\n"

    named = "text_windows"
    formats = "text"

    def __post_init__(self):
        super().__post_init__()
        if self.prompt:
            raise QtxError("prompt is set, but source text_windows measures a text's own tokens: leave it unset")
        if self.stride is not None and self.stride > self._room:
            raise QtxError(
                f"stride is {self.stride}, but a window has {self._room} tokens of the text, so that some would be in "
                f"no window: expected {self._room} or less"
            )

    @property
    def _room(self) -> int:
        return self.sequence_length - self.begin_windows

    @staticmethod
    def serves(objective):
        return isinstance(objective, TextObjective) and (
            objective.taught or isinstance(objective, CausalLanguageModelling)
        )

    def defaults(self, objective):
        return super().defaults(objective) | {"stride": self._room}

    def load(self, objective: TextObjective) -> Data:
        mended = Counter[str]()

        def read(patterns: Sequence[str]) -> list[str]:
            texts = [text for file in expand(patterns) for text in whole_documents(file, mended)]
            check_any([text for text in texts if text.strip()], patterns)
            return texts

        rows = self.with_held_out(read(self.files), read, objective, str, "document")
        stride = self.resolved(objective).stride
        assert stride is not None, "it is resolved"
        cut = Cut(self.sequence_length, stride, self.begin_windows, self.joint)
        return make_windowed_data(self, f"text_windows {' '.join(self.files)}", *rows, objective, cut, mended)
