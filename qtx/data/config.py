"""One flat group of options for any data source, made from the registry, and `load`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from qtx.data.dataset import Data
from qtx.data.objectives import OBJECTIVES
from qtx.data.prepared.writing import Written
from qtx.data.sources import SOURCES, PreparedSource, Source
from qtx.data.text import TextOptions
from qtx.foundation.config import field_types
from qtx.foundation.errors import QtxError, lookup

SOURCE_OPTIONS = {name: {o: kind for o, (kind, _) in field_types(cls).items()} for name, cls in SOURCES.items()}
"""Source name to its options and their types."""
EXAMPLE_OPTIONS = (
    *("sequence_length", "tokenizer", "vocab_size", "mask_probability", "document_attention"),
    *("image_size", "crop_ratio", "mean", "std"),
)
"""What makes an example of a record: a model is trained for it, whatever data it sees later."""
_ALL = {option: kind for options in SOURCE_OPTIONS.values() for option, kind in options.items()}

_FlatOptions: Any = dataclasses.make_dataclass(
    "_FlatOptions", [(name, kind | None, None) for name, kind in _ALL.items()], frozen=True, kw_only=True
)


@dataclasses.dataclass(frozen=True)
class DataConfig(_FlatOptions):
    """A data source and its options; an option left at None takes the source's default.

    The options are those of the registered sources, documented with each: for text `sequence_length`, `tokenizer`,
    `vocab_size`, `mask_probability`, `document_attention`, `document_separator`, `held_out_fraction`, in memory
    `files` and `validation_files`, on disk `corpora`, `weights`, `validation_corpora`; for images `path` in memory,
    `corpus`, `crop_ratio`, `mean` and `std` on disk, `image_size`, and the augmentation `random_resized_crop`,
    `random_crop`, `flip`, `randaugment_layers`, `randaugment_magnitude`, `randaugment_std`, `color_jitter`, `mixup`,
    `cutmix`; `data_dir`, the folder of datasets on disk; for Bigram-Backcopy `num_triggers`, `chain_seed`.

    Raises:
      QtxError: for an unknown source, an option that it does not take, or a bad value.
    """

    source: str = "stdlib"

    def __post_init__(self):
        allowed = lookup(SOURCE_OPTIONS, "data source", self.source)
        for option in _ALL:
            if getattr(self, option) is not None and option not in allowed:
                owners = [name for name, options in SOURCE_OPTIONS.items() if option in options]
                raise QtxError(
                    f"{option} is set, but source {self.source!r} does not take it: it belongs to {', '.join(owners)}"
                )
        self.make_source()

    def resolved(self, objective: str) -> DataConfig:
        """The same options, those left at None at what the source takes them for.

        Raises:
          QtxError: when the source does not serve the objective.
        """
        source: Any = _serving(self, objective)
        if isinstance(source, TextOptions):
            source = source.resolved(objective)
        return DataConfig(source=self.source, **{option: getattr(source, option) for option in self.taken})

    def with_tokenizer(self, file: Path) -> DataConfig:
        """The same data, cut by the tokenizer that is kept in a file instead of one trained on them."""
        changes: dict[str, Any] = {"tokenizer": str(file), "vocab_size": None}
        return dataclasses.replace(self, **changes)

    @property
    def taken(self) -> tuple[str, ...]:
        """The names of the options that the source takes."""
        return tuple(SOURCE_OPTIONS[self.source])

    def make_source(self) -> Source:
        """The chosen source with its options."""
        given = {o: getattr(self, o) for o in SOURCE_OPTIONS[self.source] if getattr(self, o) is not None}
        return SOURCES[self.source](**given)


def load(config: DataConfig, objective: str) -> Data:
    """Makes a data set ready for an objective: read into memory, or prepared on disk if it is not yet.

    Args:
      config: the source and its options.
      objective: a name in `OBJECTIVES`.

    Raises:
      QtxError: when the source does not serve the objective, or its input is missing, broken or too small.
    """
    return _serving(config, objective).load(objective)


def prepare(config: DataConfig, objective: str) -> list[Written]:
    """Makes the datasets on disk that `load` reads, unless they are there.

    Raises:
      QtxError: as `load`, and for a source that keeps nothing on disk.
    """
    source = _serving(config, objective)
    if not isinstance(source, PreparedSource):
        preparable = [name for name, cls in SOURCES.items() if issubclass(cls, PreparedSource)]
        raise QtxError(
            f"data source {config.source!r} needs no preparation, it is read whole at the start: qtx prepare serves "
            f"{', '.join(preparable)}"
        )
    return source.prepare(objective)


def _serving(config: DataConfig, objective: str) -> Source:
    source, wanted = config.make_source(), lookup(OBJECTIVES, "objective", objective)
    if not source.serves(wanted):
        served = [name for name, other in OBJECTIVES.items() if source.serves(other)]
        serving = [name for name, cls in SOURCES.items() if cls.serves(wanted)]
        raise QtxError(
            f"data source {config.source!r} serves objective {' or '.join(served)}, not {objective!r}: expected one of "
            f"{', '.join(serving)}"
        )
    return source
