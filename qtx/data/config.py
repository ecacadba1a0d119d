"""Which data an experiment has, and `load`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qtx.data.dataset import Data
from qtx.data.objectives import OBJECTIVES
from qtx.data.prepared.writing import Written
from qtx.data.sources import SOURCES, PreparedSource, Source, Stdlib
from qtx.data.text import TokenizedOptions
from qtx.foundation.config import Choice
from qtx.foundation.errors import QtxError, lookup

SOURCE = Choice(SOURCES, kind="data source")
PIXELS = ("image_size", "channels", "crop_ratio", "crop_mode", "interpolation", "mean", "std")
"""What makes an example of an image."""
EXAMPLE_OPTIONS = (
    *("sequence_length", "tokenizer", "vocab_size", "mask_probability", "document_attention"),
    *PIXELS,
)
"""What makes an example of a record: a model is trained for it, whatever data it sees later."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A data source.

    In a config it is named, and its options, documented with each source, stand beside the name: `source`, `files`,
    `sequence_length`, ...; one left at None takes the source's default.
    """

    source: Source = dataclasses.field(default=Stdlib(), metadata=SOURCE.metadata)

    @property
    def name(self) -> str:
        """The name of the source."""
        return SOURCE.name_of(self.source)

    def resolved(self, objective: str) -> DataConfig:
        """The same data, options left at None at what the source takes them for.

        Raises:
          QtxError: when the source does not serve the objective.
        """
        source = _serving(self, objective)
        return DataConfig(source.resolved(objective)) if isinstance(source, TokenizedOptions) else self

    def with_tokenizer(self, file: Path) -> DataConfig:
        """The same data, cut by the tokenizer that is kept in a file instead of one trained on them."""
        source: Any = self.source
        return DataConfig(dataclasses.replace(source, tokenizer=str(file), vocab_size=None))

    def with_classes(self, classes: Sequence[str]) -> DataConfig:
        """The same data, its labels numbered in the order of these classes."""
        source: Any = self.source
        return DataConfig(dataclasses.replace(source, classes=tuple(classes)))


def load(config: DataConfig, objective: str) -> Data:
    """Makes a data set ready for an objective: read into memory, or prepared on disk if it is not yet.

    Args:
      config: which data.
      objective: a name in `OBJECTIVES`.

    Raises:
      QtxError: when the source does not serve the objective, or its input is missing, broken or too small.
    """
    return _serving(config, objective).load(objective)


def prepare_data(config: DataConfig, objective: str) -> list[Written]:
    """Makes the datasets on disk that `load` reads, unless they are there.

    Raises:
      QtxError: as `load`, and for a source that keeps nothing on disk.
    """
    source = _serving(config, objective)
    if not isinstance(source, PreparedSource):
        preparable = [name for name, cls in SOURCES.items() if issubclass(cls, PreparedSource)]
        raise QtxError(
            f"data source {config.name!r} needs no preparation, it is read whole at the start: qtx prepare serves "
            f"{', '.join(preparable)}"
        )
    return source.prepare(objective)


def _serving(config: DataConfig, objective: str) -> Source:
    source, wanted = config.source, lookup(OBJECTIVES, "objective", objective)
    if not source.serves(wanted):
        served = [name for name, other in OBJECTIVES.items() if source.serves(other)]
        serving = [name for name, cls in SOURCES.items() if cls.serves(wanted)]
        raise QtxError(
            f"data source {config.name!r} serves objective {' or '.join(served)}, not {objective!r}: expected one of "
            f"{', '.join(serving)}"
        )
    return source
