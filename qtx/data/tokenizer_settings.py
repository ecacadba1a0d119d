"""Settings of a tokenizer in the files beside it, as transformers and sentence-transformers write and read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from qtx.data.tokenizer_kinds import CLASSES, MODEL_TYPES, ROLES, Kind
from qtx.foundation.storage import Expected, read_json

EXPECTED = Expected("the settings of a tokenizer", "save the tokenizer there anew with transformers")
TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
ADDED_TOKENS, MODEL_CONFIG = "added_tokens.json", "config.json"
SENTENCE_CONFIGS = tuple(
    f"sentence_{model}_config.json"
    for model in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Settings files of sentence-transformers, whose older versions named the file by the model."""
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
LONGEST = 10**9
"""A `model_max_length` from here on says that there is no limit: transformers writes 10^30."""


@dataclass(frozen=True)
class Settings:
    """The settings of a tokenizer, as the files beside it give them.

    Attributes:
      folder: where the files are.
      found: whether there is any of these files but the model's `config.json`.
      class_name: the tokenizer class that is named, without `Fast`; "": none is.
      kind: that class, or else the one of the model's type; None: nothing tells, or the class is none of `CLASSES`.
      options: options of `tokenizer_config.json`, completed by `special_tokens_map.json`.
      tokens: the special tokens that are named, by their roles; None for a role that is to have no token.
      listed: further tokens that are to be in the vocabulary, in the order of their ids.
      extra: special tokens without a role.
      lower: whether sentence-transformers makes a text lower case before anything reads it.
      rows: rows of the embedding table of the folder's model; None: there is no model.
    """

    folder: Path
    found: bool
    class_name: str
    kind: Kind | None
    options: Mapping[str, Any]
    tokens: Mapping[str, AddedToken | None]
    listed: tuple[AddedToken, ...]
    extra: tuple[AddedToken, ...]
    lower: bool
    rows: int | None

    def flag(self, name: str) -> bool | None:
        """Returns an option that is true or false; None if `options` lacks it.

        Raises:
          QtxError: if the option is neither true nor false.
        """
        return _flag(self.options, name, self.folder / TOKENIZER_CONFIG)


def read_settings(folder: Path) -> Settings:
    """Reads the settings of a folder's tokenizer; any of the files may be missing.

    Raises:
      QtxError: if a file is broken.
    """
    model, own = _read(folder / MODEL_CONFIG), _read(folder / TOKENIZER_CONFIG)
    options = own or {}
    named_there, added = None, None
    if "added_tokens_decoder" not in options:  # as transformers, for which that key marks a newer, whole file
        named_there, added = _read(folder / SPECIAL_TOKENS), _read(folder / ADDED_TOKENS)
        options = {**options, **(named_there or {})}
    sentence_file, sentence = _sentence_config(folder)
    source = folder / (SPECIAL_TOKENS if own is None else TOKENIZER_CONFIG)
    tokens = {role: _token(options[f"{role}_token"], source) for role in ROLES if f"{role}_token" in options}
    extra = _extra(options, source)
    known = {token.content for token in (*tokens.values(), *extra) if token is not None}
    listed = _listed(options, source) if added is None else _added(added, known, folder / ADDED_TOKENS)
    model = model or {}
    name = str(options.get("tokenizer_class") or model.get("tokenizer_class") or "").removesuffix("Fast")
    kind = CLASSES.get(name.lower()) if name else MODEL_TYPES.get(str(model.get("model_type")))
    return Settings(
        folder=folder,
        found=any(part is not None for part in (own, named_there, added, sentence)),
        class_name=name,
        kind=kind,
        options=options,
        tokens=tokens,
        listed=listed,
        extra=extra,
        lower=bool(_flag(sentence or {}, "do_lower_case", sentence_file)),
        rows=_rows(model),
    )


def longest_text(folder: Path) -> tuple[int, str] | None:
    """Returns the most tokens of a text by the settings of a folder's tokenizer, and the name of the file that says so:
    that of sentence-transformers, or else `tokenizer_config.json`; None if neither does.

    Raises:
      QtxError: if a file is broken.
    """
    file, sentence = _sentence_config(folder)
    options = _read(folder / TOKENIZER_CONFIG) or {}
    of_tokenizer = options.get("model_max_length", options.get("max_len"))  # its name in versions before 3
    said = (((sentence or {}).get("max_seq_length"), file.name), (of_tokenizer, TOKENIZER_CONFIG))
    for number, name in said:
        if isinstance(number, int | float) and 1 <= number < LONGEST:
            return int(number), name
    return None


def _read(path: Path) -> dict[str, Any] | None:
    return read_json(path, EXPECTED) if path.is_file() else None


def _sentence_config(folder: Path) -> tuple[Path, dict[str, Any] | None]:
    path = next((folder / name for name in SENTENCE_CONFIGS if (folder / name).is_file()), folder / SENTENCE_CONFIGS[0])
    return path, _read(path)


def _rows(model: Mapping[str, Any]) -> int | None:
    # A checkpoint's config.json has the number at its top, a run's in its section `model`.
    section = model.get("model")
    rows = (section if isinstance(section, dict) else model).get("vocab_size")
    return rows if isinstance(rows, int) and rows > 0 else None


def _flag(values: Mapping[str, Any], name: str, source: Path) -> bool | None:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise EXPECTED.refusal(source, f"{name} is {str(value)[:50]!r}, neither true nor false")
    return value


def _token(value: Any, source: Path, special: bool | None = True) -> AddedToken | None:
    """Reads a token that is written as a text, or as an object with its `content`."""
    if value is None:
        return None
    if isinstance(value, str):
        value = {"content": value}
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise EXPECTED.refusal(source, f"{str(value)[:50]!r} is no token")
    flags = {name: value[name] for name in FLAGS if name in value}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise EXPECTED.refusal(source, f"the flags of token {value['content'][:50]!r} are not all true or false")
    return AddedToken(value["content"], **({**flags, "special": True} if special else flags))


def _extra(options: Mapping[str, Any], source: Path) -> tuple[AddedToken, ...]:
    of_model = [  # a custom class may have roles of its own
        value
        for name, value in options.items()
        if name.endswith("_token") and name.removesuffix("_token") not in ROLES and isinstance(value, str)
    ]
    listed = options.get("extra_special_tokens") or options.get("additional_special_tokens") or []
    if not isinstance(listed, list | dict):
        raise EXPECTED.refusal(source, f"{str(listed)[:50]!r} is no list of special tokens")
    values = [*of_model, *(listed.values() if isinstance(listed, dict) else listed)]
    return tuple(token for value in values if (token := _token(value, source)) is not None)


def _listed(options: Mapping[str, Any], source: Path) -> tuple[AddedToken, ...]:
    listed = options.get("added_tokens_decoder", {})
    if not isinstance(listed, dict) or not all(i.isdecimal() for i in listed):
        raise EXPECTED.refusal(source, "its added_tokens_decoder is no object of ids and tokens")
    tokens = (_token(listed[i], source, special=None) for i in sorted(listed, key=int))
    return tuple(token for token in tokens if token is not None)


def _added(added: Mapping[str, Any], special: set[str], source: Path) -> tuple[AddedToken, ...]:
    if not all(isinstance(number, int) for number in added.values()):
        raise EXPECTED.refusal(source, "it is no object of tokens and ids")
    return tuple(
        AddedToken(token, normalized=token not in special, special=token in special)
        for token in sorted(added, key=added.__getitem__)
    )
