"""One flat group of options for any data source, made from the registry, and `load`."""

from __future__ import annotations

import dataclasses
from typing import Any

from qtx.config import field_types
from qtx.data.dataset import Data
from qtx.data.sources import SOURCES, Source
from qtx.errors import QtxError, lookup

SOURCE_OPTIONS = {name: {o: kind for o, (kind, _) in field_types(cls).items()} for name, cls in SOURCES.items()}
"""Source name to its options and their types."""
_ALL = {option: kind for options in SOURCE_OPTIONS.values() for option, kind in options.items()}

_FlatOptions: Any = dataclasses.make_dataclass(
    "_FlatOptions", [(name, kind | None, None) for name, kind in _ALL.items()], frozen=True, kw_only=True
)


@dataclasses.dataclass(frozen=True)
class DataConfig(_FlatOptions):
    """A data source and its options; an option left at None takes the source's default.

    The options are those of the registered sources, documented with each: for text `sequence_length`, `tokenizer`,
    `vocab_size`, `mask_probability`, `files`, `validation_files`, `held_out_fraction`, `document_separator`; for images
    `path`, `image_size`, `random_crop`, `flip`; for Bigram-Backcopy `num_triggers`, `chain_seed`.

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

    def make_source(self) -> Source:
        """The chosen source with its options."""
        given = {o: getattr(self, o) for o in SOURCE_OPTIONS[self.source] if getattr(self, o) is not None}
        return SOURCES[self.source](**given)


def load(config: DataConfig, objective: str) -> Data:
    """Reads a data set into memory and prepares it for an objective.

    Args:
      config: the source and its options.
      objective: `"mlm"`, `"clm"` or `"classification"`.

    Raises:
      QtxError: when the source does not serve the objective, or its input is missing, broken or too small.
    """
    source = config.make_source()
    if objective not in source.objectives:
        serving = [name for name, cls in SOURCES.items() if objective in cls.objectives]
        raise QtxError(
            f"data source {config.source!r} serves objective {' or '.join(source.objectives)}, not {objective!r}: "
            f"expected one of {', '.join(serving) or 'the objectives mlm, clm, classification'}"
        )
    return source.load(objective)
