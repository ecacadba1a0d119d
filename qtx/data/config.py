"""`DataConfig` says which data an experiment has, and `load` reads them."""

from __future__ import annotations

import dataclasses
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
"""Options that decide how an image becomes an example."""
EXAMPLE_OPTIONS = (
    *("sequence_length", "tokenizer", "vocab_size", "prompt", "mask_probability", "document_attention"),
    *PIXELS,
)
"""Options that decide how a record becomes an example: a model is trained for these, whatever data it sees later."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A data source with its options.

    A config names the source and has its options, which each source documents, beside the name: `source`, `files`,
    `sequence_length`, ...; an option left at None takes the source's default.
    """

    source: Source = dataclasses.field(default=Stdlib(), metadata=SOURCE.metadata)

    @property
    def name(self) -> str:
        """Returns the name of the source."""
        return SOURCE.name_of(self.source)

    def resolved(self, objective: str) -> DataConfig:
        """Fills in the options that a source of text takes from the objective or a default; others stay as they are.

        Raises:
          QtxError: when the source does not serve the objective.
        """
        source, wanted = _serving(self, objective)
        return DataConfig(source.resolved(wanted)) if isinstance(source, TokenizedOptions) else self

    def with_tokenizer(self, file: Path) -> DataConfig:
        """Returns the same data with the tokenizer that a file keeps instead of one trained on the data."""
        source: Any = self.source
        return DataConfig(dataclasses.replace(source, tokenizer=str(file), vocab_size=None))

    def with_classes(self, classes: tuple[str, ...]) -> DataConfig:
        """Returns the same data with labels numbered in the order of these classes."""
        source: Any = self.source
        return DataConfig(dataclasses.replace(source, classes=classes))


def load(config: DataConfig, objective: str) -> Data:
    """Makes a data set ready for an objective: read into memory, or prepared on disk if it is not yet.

    Args:
      config: the data source with its options.
      objective: a name in `OBJECTIVES`.

    Raises:
      QtxError: when the source does not serve the objective, or its input is missing, broken or too small.
    """
    source, wanted = _serving(config, objective)
    return source.load(wanted)


def prepare_data(config: DataConfig, objective: str) -> list[Written]:
    """Makes the datasets on disk that `load` reads, unless they exist.

    Raises:
      QtxError: as `load`, and for a source that keeps nothing on disk.
    """
    source, wanted = _serving(config, objective)
    if not isinstance(source, PreparedSource):
        preparable = [name for name, cls in SOURCES.items() if issubclass(cls, PreparedSource)]
        raise QtxError(
            f"data source {config.name!r} needs no preparation, it is read whole at the start: qtx prepare serves "
            f"{', '.join(preparable)}"
        )
    return source.prepare(wanted)


def _serving(config: DataConfig, objective: str) -> tuple[Source, Any]:
    source, wanted = config.source, lookup(OBJECTIVES, "objective", objective)
    if not source.serves(wanted):
        served = [name for name, other in OBJECTIVES.items() if source.serves(other)]
        serving = [name for name, cls in SOURCES.items() if cls.serves(wanted)]
        raise QtxError(
            f"data source {config.name!r} serves objective {' or '.join(served)}, not {objective!r}: expected one of "
            f"{', '.join(serving)}"
        )
    return source, wanted
