"""This module describes in a table what the import and export of one kind of checkpoint need to know."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from qtx.attention import AttentionConfig, attention_text
from qtx.data.classes import default_names
from qtx.families.library import TRANSFORMERS, Library
from qtx.families.stock import Stock
from qtx.families.weights import Weight
from qtx.foundation.errors import QtxError, lookup
from qtx.models import COMPUTATION, MEASURED_BY, OF_TRAINING

# BERT's first published checkpoints have TensorFlow's names.
RENAMED = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
# Keys of a config.json of any kind that say that the weights are not those of the plain model.
UNSUPPORTED = ("quantization_config", "pruned_heads")
REQUIRED: Any = object()


def _same(value: Any) -> Any:
    return value


@dataclasses.dataclass(frozen=True)
class Field:
    """A `Field` says which field of our config a key of config.json is.

    Attributes:
      name: the field.
      default: what the library takes for a key that is left out, or null; `REQUIRED`: the key has to be there.
      read, write: the field's value from the key's, and back.
    """

    name: str
    default: Any = REQUIRED
    read: Callable[[Any], Any] = _same
    write: Callable[[Any], Any] = _same


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One kind of checkpoint of a model family.

    Attributes:
      model_types: the types of model that are stored so, as config.json names them (`*` stands for anything), each with
        the beginning of its classes' names: `{"roberta": "Roberta", "xlm-roberta": "XLMRoberta"}`. A model without an
        original is written as the first.
      architectures: the rest of the classes' names, e.g. `"ForMaskedLM"`, with the config fields that each means; a
        model is written as the first whose fields it has. If a field has a tuple of values, a model has one of them,
        and is read with the first.
      fields: config.json's keys, each with its field of our config. A value that matters in training alone, and that
        our config does not take, is not read, and stays in the original.
      supported: keys with the one value that is supported; a key left out, or null, means this value too.
      attention_prefix: the prefix of the attention layer's weights, with `{layer}`, also of normalizers' and gates'.
      weights: the table for a config, without the rows of normalizers and gates.
      library: the library whose checkpoints these are.
      fixed: fields that no key tells, with the value that they have in this kind, where this is not our default.
      prefix: the prefix of the weights below the heads, e.g. `"bert."`.
      modules: the beginnings of these names if a checkpoint leaves the prefix out, e.g. `"encoder."`.
      bare: those of `architectures` that are written without the prefix.
      tied: weights that may be stored a second time, or only as the copy: the copy's name to the original's.
      nullable: keys whose null says that there is none, and not that the library's value is taken.
      attention: the attention of the kind's own classes.
      unused: beginnings of names that published checkpoints have and, if no row has them, qtx does not compute with.
      buffers: patterns of the names of tensors that are no parameters, e.g. `"h.*.attn.masked_bias"`.
      shown_by_weights: tells config fields from the tensors, by name.
      told_by_values: tells config fields that take more than one key of config.json, from all its values, the fields so
        far, and its name in errors.
      extra: makes, for a config, the part of config.json that `told_by_values` reads.
      options: brings config.json's values, given its name in errors, under the keys of `fields` and `supported`, where
        they may have other keys, or are nested.
      written: whether a model without an original may be written as this kind.
      stock: the names that the code of another attention needs; None: models of this kind have the plain softmax alone.
    """

    model_types: Mapping[str, str]
    architectures: Mapping[str, Mapping[str, Any]]
    fields: Mapping[str, Field]
    supported: Mapping[str, Any]
    attention_prefix: str
    weights: Callable[[Any], list[Weight]]
    library: Library = TRANSFORMERS
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    modules: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    nullable: tuple[str, ...] = ()
    attention: AttentionConfig = AttentionConfig()
    unused: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    shown_by_weights: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda tensors: {}
    told_by_values: Callable[[Mapping[str, Any], Mapping[str, Any], str], dict[str, Any]] = lambda *_: {}
    extra: Callable[[Any], dict[str, Any]] = lambda config: {}
    options: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = lambda values, source: values
    written: bool = True
    stock: Stock | None = None

    def beginning(self, values: Mapping[str, Any]) -> str | None:
        """Returns the beginning of the classes' names for the type that a config.json names; None: it has no type of
        this kind."""
        named = str(values.get(self.library.key))
        return next((start for name, start in self.model_types.items() if fnmatchcase(named, name)), None)

    def ending(self, config: Any) -> str | None:
        """Returns which of `architectures` a config is written as; None: it has none."""
        fits = (
            name
            for name, fields in self.architectures.items()
            if all(getattr(config, field) in _values(value) for field, value in fields.items())
        )
        return next(fits, None)

    def unsaid(self, config: Any) -> str | None:
        """Returns what would be lost if a config were written and read again, in words; None: nothing."""
        ending, beginning = self.ending(config), next(iter(self.model_types.values()))
        if self.stock is None and (config.attention != self.attention or config.prefix):
            prefix = f" with a prefix of {config.prefix}" if config.prefix else ""
            return f"its attention is {attention_text(config.attention)}{prefix}: {beginning} has only its own"
        if ending is None:
            return f"its head is that of none of {', '.join(beginning + name for name in self.architectures)}"
        read = vars(type(config)()) | self.read_config(self.write_config(config), {}, "config.json")
        # The weights tell the first; without the others it is still the same model.
        others = {*self.shown_by_weights({}), *COMPUTATION, *MEASURED_BY, *OF_TRAINING, "attention"}
        lost = [name for name in read if name not in others and getattr(config, name) != read[name]]
        return next(
            (f"{x} is {getattr(config, x)!r}: {beginning}{ending} supports only {read[x]!r}" for x in lost), None
        )

    def full_names(self, names: Iterable[str]) -> dict[str, str]:
        """Maps a file's names to those of the table: today's names, with the prefix."""
        result = {}
        for name in names:
            full = self.prefix + name if name.startswith(self.modules) else name
            for old, new in RENAMED.items():
                full = full.removesuffix(old) + new if full.endswith(old) else full
            result[name] = full
        return result

    def read_config(self, values: Mapping[str, Any], tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Returns the fields of our config that a config.json and the weights' names and shapes give.

        Raises:
          QtxError: naming a key that is missing, or one whose value qtx does not support.
        """
        named = str(values.get(self.library.key))[:100]
        known = {f"{self.beginning(values)}{name}": fields for name, fields in self.architectures.items()}
        values = {key: value for key, value in values.items() if value is not None or key in self.nullable}
        values = _told(self.options, values, source)
        for key, value in self.supported.items():
            if values.get(key, value) != value:
                raise QtxError(f"{source}: {key} is {values[key]!r}; qtx's {named} supports only {value!r}")
        for key in UNSUPPORTED:
            if values.get(key):
                raise QtxError(f"{source} has {key}, which qtx does not support: convert the model to one without")
        result = dict(self.fixed)
        for key, field in self.fields.items():
            value = values.get(key, field.default)
            if value is REQUIRED:
                raise QtxError(f"{source} has no {key!r}, which a {next(iter(known))} needs")
            value = _read(field, key, value, source)
            if field.name not in OF_TRAINING or _is_taken(field.name, value):
                result[field.name] = value
        classes = values.get("architectures") or []
        if not isinstance(classes, list) or len(classes) > 1:
            raise QtxError(f"{source}: architectures is {str(classes)[:100]}, expected a list of one name")
        shown = self.shown_by_weights(tensors)
        for name in classes:
            meant = lookup(known, f"architecture in {source}:", str(name))
            if tensors and meant.get("head") == "mlm" and shown.get("head") == "none":
                continue  # an encoder may keep the class that it was pre-trained as, without that head
            shown |= {field: _values(value)[0] for field, value in meant.items()}
        return result | shown | _told(self.told_by_values, values, shown, source)

    def write_config(self, config: Any) -> dict[str, Any]:
        """Returns the config.json of our config, of a kind that is `written`."""
        model_type, beginning = next(iter(self.model_types.items()))
        classes = default_names(config.num_classes or 0) if "num_classes" in config.from_data else None
        return {
            self.library.key: model_type,
            "architectures": [f"{beginning}{self.ending(config)}"],
            **self.supported,
            **{key: field.write(getattr(config, field.name)) for key, field in self.fields.items()},
            **({} if classes is None else self.library.labels(classes)),
            **self.extra(config),
        }


def _values(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _told(tell: Callable[..., Mapping[str, Any]], values: Mapping[str, Any], *others: Any) -> dict[str, Any]:
    """Returns what a kind's function tells from the values of a config.json, whose name in errors comes last."""
    try:
        return dict(tell(values, *others))
    except QtxError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise QtxError(f"{others[-1]} has no values that its model can have: {error}") from None


def _read(field: Field, key: str, value: Any, source: str) -> Any:
    """Returns the value of our config's field, given a key's."""
    try:
        return field.read(value)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise QtxError(f"{source}: {key} is {str(value)[:100]!r}, which is no {field.name}: {error}") from None


def _is_taken(field: str, value: Any) -> bool:
    """Says whether our config takes a value of a field of `OF_TRAINING`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (0 < value < math.inf if field == "init_std" else 0 <= value < 1)


COUNTED = ("classification", "token_classification")


def shown_head(tensors: Mapping[str, Any], heads: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """Tells the head and its number of classes by the first of `heads` whose tensors are all there, and the first
    tensor's length: a config.json may lack the head, and a number of 2."""
    names = next((names for names in heads if all(name in tensors for name in names)), ())
    head = heads.get(names, "none")
    return {"head": head, "num_classes": first_length(tensors[names[0]]) if head in COUNTED else None}


def first_length(tensor: Any) -> int:
    """Returns the length of a tensor's first axis; 1 for a scalar, which is refused later, by its name."""
    return tensor.shape[0] if tensor.shape else 1
