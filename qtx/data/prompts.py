"""Prompts are texts before a text, such as "query: ", which sentence-transformers' models have by their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from qtx.data.tokenization import TextTokenizer
from qtx.foundation.errors import QtxError, lookup
from qtx.foundation.storage import Expected, parse_json, read_bytes

PROMPTS = "config_sentence_transformers.json"
EXPECTED = Expected("the prompts of a sentence-transformers model", "save the model there with its save(folder)")


class Prompts(NamedTuple):
    """The prompts of a folder.

    Attributes:
      texts: the prompts by their names.
      default: the name of the one that is put before texts unless another is named; None: there is none.
    """

    texts: Mapping[str, str]
    default: str | None


def read_prompts(folder: Path) -> Prompts:
    """Reads the prompts of a sentence-transformers folder; one without them has none.

    Raises:
      QtxError: if the file is broken, or names a default that it lacks.
    """
    file = folder / PROMPTS
    return _prompts(read_bytes(file, EXPECTED), file) if file.is_file() else Prompts({}, None)


def _prompts(content: bytes, file: Path) -> Prompts:
    values: Mapping[str, Any] = parse_json(content, file, EXPECTED)
    texts, default = values.get("prompts") or {}, values.get("default_prompt_name")
    if not isinstance(texts, dict) or not all(isinstance(text, str | None) for text in texts.values()):
        raise EXPECTED.refusal(file, "prompts is not an object of texts")
    if default is not None and default not in texts:
        raise EXPECTED.refusal(file, f"default_prompt_name is {str(default)[:100]!r}, which prompts lacks")
    return Prompts({name: text or "" for name, text in texts.items()}, default)


def with_prompt(tokenizer: TextTokenizer, path: str | Path, name: str | None) -> TextTokenizer:
    """Returns a tokenizer with one of the prompts beside its file, and their file among its own.

    Args:
      tokenizer: the tokenizer.
      path: the file or folder that the tokenizer was loaded from.
      name: the prompt's name; None, or empty: no prompt.

    Raises:
      QtxError: if there is no such prompt.
    """
    if not name:
        return tokenizer
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    texts = read_prompts(folder).texts
    if not texts:
        raise QtxError(f"prompt is {name!r}, but {folder} has no prompts in a {PROMPTS}: leave it unset")
    text = lookup(texts, f"prompt in {folder / PROMPTS}:", name)
    said = read_bytes(folder / PROMPTS, EXPECTED).decode()
    return dataclasses.replace(tokenizer, prompt=text, files={**tokenizer.files, PROMPTS: said})
