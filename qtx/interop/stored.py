"""An opened checkpoint folder: its kind, and the names of its tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from qtx.attention import AttentionConfig
from qtx.families import Checkpoint, Family
from qtx.families.attention_weights import attention_weights, with_gate
from qtx.families.kinds import kind_of
from qtx.families.weights import Weight
from qtx.foundation.config import read_section
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, read_json
from qtx.interop.carried import MODULES
from qtx.interop.sentence import DENSE, dense_files, dense_rows, read_modules
from qtx.interop.weight_files import INDEX, WEIGHTS, StoredTensors, open_weights
from qtx.models import TransformerConfig

CONFIG = "config.json"
EXPECTED = Expected("a model's config", f"give a checkpoint folder with {CONFIG} and {WEIGHTS}")
# The key of the attention variant in config.json; transformers keeps unknown keys and ignores them.
ATTENTION_KEY = "qtx_attention"
PARAMETERS = (".weight", ".bias")
TIED_KEY = "tie_word_embeddings"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A checkpoint folder.

    Attributes:
      folder: where it is.
      values: the values of its config.json.
      family, checkpoint: the model's family, and its kind of checkpoint.
      files: the names of the folder's files of weights, each to the file's tensors by their names there.
    """

    folder: Path
    values: dict[str, Any]
    family: Family
    checkpoint: Checkpoint
    files: dict[str, StoredTensors]

    @property
    def source(self) -> str:
        """Returns what to call the weights in messages."""
        return str(self.folder / (WEIGHTS if WEIGHTS in self.files else INDEX))

    @property
    def tied(self) -> Mapping[str, str]:
        """Returns the weights that may be stored as copies: none, if config.json says that they are not tied."""
        field = self.checkpoint.fields.get(TIED_KEY)
        stored = self.values.get(TIED_KEY)
        untied = field is not None and not (field.default if stored is None else stored)
        return {} if untied else self.checkpoint.tied

    @property
    def names(self) -> dict[str, str]:
        """Maps the tensors' names to those of the table; a tied weight's copy takes the name of an absent original."""
        names = self.checkpoint.full_names(name for tensors in self.files.values() for name in tensors)
        for copy, original in self.tied.items():
            if original not in names.values():
                names = {name: original if full == copy else full for name, full in names.items()}
        return names

    @property
    def tensors(self) -> StoredTensors:
        """Returns the tensors by the names of the table."""
        names = self.names
        return {names[name]: tensor for tensors in self.files.values() for name, tensor in tensors.items()}

    def config(self, attention: AttentionConfig | None) -> TransformerConfig:
        """Reads the model's config; arguments and errors are those of `qtx.interop.load`."""
        tensors, values = self.tensors, self.values
        fields = self.checkpoint.read_config(values, tensors, str(self.folder / CONFIG))
        try:
            if attention is None:
                noted = values.get(ATTENTION_KEY, {})
                if not isinstance(noted, dict):
                    raise QtxError(f"{ATTENTION_KEY} is {noted!r}: expected options of the attention")
                own = self.checkpoint.attention
                attention = read_section(AttentionConfig, noted, "config.model.attention") if noted else own
            fields["attention"] = self._with_gate(attention, tensors)
            config = _with_pooling(read_section(self.family.config, fields, "config.model").resolved(), self.folder)
            for name in config.from_data:
                if getattr(config, name) is None:
                    raise QtxError(f"neither {CONFIG} nor the weights tell {name}")
        except QtxError as error:
            raise QtxError(f"{self.folder}: {error}") from None
        return config

    def _with_gate(self, attention: AttentionConfig, tensors: StoredTensors) -> AttentionConfig:
        own = self.checkpoint.attention.gate
        if own is not None and attention.gate is None:
            return dataclasses.replace(attention, gate=own)
        return with_gate(attention, tensors, self.checkpoint.attention_prefix)

    def used(self, table: list[Weight]) -> StoredTensors:
        """Returns the tensors without the copies of tied ones and those that qtx does not compute with.

        Raises:
          QtxError: if a copy differs from its original.
        """
        tensors, tied = self.tensors, self.tied
        for copy, original in tied.items():
            if copy in tensors and original in tensors and not np.array_equal(tensors[copy], tensors[original]):
                raise QtxError(f"{self.source}: {copy} differs from {original}; qtx's {self.family.title} ties them")
        used = {
            name: tensor
            for name, tensor in tensors.items()
            if name not in tied
            and not name.startswith(self._unused(table))
            and not any(fnmatchcase(name, buffer) for buffer in self.checkpoint.buffers)
        }
        return used | {name: tensor for file in self.beside(table).values() for name, tensor in file.items()}

    def beside(self, table: list[Weight]) -> dict[str, StoredTensors]:
        """Returns the further files of weights that a table names, as `qtx.interop.sentence.dense_files` has them."""
        return dense_files(self.folder) if any(row.name.startswith(DENSE) for row in table) else {}

    def left_out(self, config: TransformerConfig) -> list[str]:
        """Lists the layers, by their names in the files, whose weights are no part of the model of a config, such as
        the head of a pre-training; an export gives them back."""
        unused = self._unused(table_of(self.checkpoint, config))
        own = {name: full for name, full in self.names.items() if full not in self.tied}
        names = {name for name, full in own.items() if full.startswith(unused) and name.endswith(PARAMETERS)}
        return sorted({name.rpartition(".")[0] for name in names})

    def _unused(self, table: list[Weight]) -> tuple[str, ...]:
        beginnings = self.checkpoint.unused
        return tuple(start for start in beginnings if not any(weight.name.startswith(start) for weight in table))


def _with_pooling(config: TransformerConfig, folder: Path) -> TransformerConfig:
    """Returns a config whose embedding follows the folder's sentence-transformers modules, if the model has no head and
    the modules can be read."""
    # Only where pooling is an option: what pools the hidden states of a ViT is a fact of its family. A decoder that
    # embeds texts (Qwen3-Embedding) keeps the class that it was pre-trained as, whose head nobody reads.
    if getattr(config, "head", None) not in ("none", "clm") or "pooling" not in vars(config):
        return config
    if not (folder / MODULES).is_file():
        return config
    try:
        modules = read_modules(folder)
    except QtxError:
        return config  # the model keeps its own pooling, and import tells which that is
    options = {name: value for name, value in modules.options().items() if name in vars(config)}
    if modules.modules and "modules" not in options:
        return config
    chosen: dict[str, Any] = {"head": "none", **options}
    return dataclasses.replace(config, **chosen)


def open_folder(folder: Path) -> Stored:
    """Opens a checkpoint folder; no tensor is read.

    Raises:
      QtxError: if a file is missing or broken, or the model is of no registered kind.
    """
    values = read_json(folder / CONFIG, EXPECTED)
    family, checkpoint = kind_of(values, str(folder / CONFIG))
    stored = Stored(folder, values, family, checkpoint, open_weights(folder))
    if len(stored.tensors) < len(stored.names):
        full = list(stored.names.values())
        twice = next(name for name in full if full.count(name) > 1)
        raise QtxError(f"{stored.source} has {twice} twice, under an old name and under today's: remove one of them")
    return stored


def table_of(checkpoint: Checkpoint, config: TransformerConfig) -> list[Weight]:
    """Returns the rows of all weights of a config."""
    own = checkpoint.weights(config)
    packed = {row.path for row in own}  # the gates of Qwen3-Next are in the queries' projection
    attention = attention_weights(config.attention, checkpoint.attention_prefix)
    return [*own, *(row for row in attention if row.path not in packed), *dense_rows(getattr(config, "modules", ""))]


def sizes_of(config: TransformerConfig) -> dict[str, int]:
    """Returns the lengths of a table's stacked axes."""
    return {"layer": config.num_layers, "head": config.num_heads}
