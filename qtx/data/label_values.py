"""Labels of texts: a class, numbers, or names of which a text may have several. Every label is turned into text, which
is what is kept, compared and hashed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from qtx.foundation.errors import QtxError

CLASS, NUMBERS, NAMES, TAGS, ANSWERS, CHOICES = "class", "numbers", "names", "tags", "answers", "choices"
"""Kinds of labels. A label of `NUMBERS` or `NAMES` is a JSON list, for `NAMES` of names, or of a 0 or 1 for each;
`TAGS` are a class for each word of a text, `ANSWERS` places in a text that answer a question, and `CHOICES` the right
one of a few texts."""
OF_TEXTS = (CLASS, NUMBERS, NAMES)
"""Kinds of labels of whole texts."""
SEPARATOR = ","
"""Separates labels in a cell of a table, and names of columns that hold a label each."""


LARGEST = 3.4e38
"""Bound on numbers: about the largest float32."""


def label_columns(label_column: str, kind: str | None) -> tuple[str, ...]:
    """Returns the columns that labels of a kind are in; a class is in one column, whatever the column's name."""
    return (label_column,) if kind == CLASS else tuple(name.strip() for name in label_column.split(SEPARATOR))


def label_text(values: Sequence[Any], columns: Sequence[str], kind: str | None, where: str) -> str:
    """Turns a label into text.

    Args:
      values: what the columns hold: text, or any value of JSON.
      columns: the columns' names.
      kind: the label's kind; None: the label is not used, and not checked.
      where: file and line, for messages.

    Raises:
      QtxError: if the label is not of the kind.
    """
    if kind is None:
        return "\t".join(x if isinstance(x, str) else json.dumps(x, ensure_ascii=False) for x in values)
    if kind == CLASS:
        return _class(values[0], columns[0], where)
    if len(columns) > 1:
        of_column = _number if kind == NUMBERS else _flag
        found = [of_column(x, column, where) for x, column in zip(values, columns, strict=True)]
        if kind == NAMES and not columns[0].isdecimal():
            return json.dumps([column for x, column in zip(found, columns, strict=True) if x], ensure_ascii=False)
        return json.dumps(found)
    (value,), (column,) = values, columns
    if isinstance(value, str):
        value = [part.strip() for part in value.split(SEPARATOR)] if value.strip() else []
    elif not isinstance(value, list):
        value = [value]
    if kind == NUMBERS:
        if not value:
            raise QtxError(f"{where}: no label: expected one in column {column}")
        return json.dumps([_number(x, column, where) for x in value])
    return json.dumps(_names(value, column, where), ensure_ascii=False)


def _class(value: Any, column: str, where: str) -> str:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not (isinstance(value, str) or whole):
        raise QtxError(f"{where}: {column} is {str(value)[:100]!r}: expected a text or a whole number")
    if not str(value).strip():
        raise QtxError(f"{where}: no label: expected one in column {column}")
    return str(value)


def _number(value: Any, column: str, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise QtxError(f"{where}: {column} is {str(value)[:100]!r}: expected a number, or numbers with commas between")
    return number


def _flag(value: Any, column: str, where: str) -> int:
    number = _number(value if not isinstance(value, bool) else int(value), column, where)
    if number not in (0, 1):
        raise QtxError(f"{where}: {column} is {str(value)[:100]!r}: expected 1 for a text that has the label, or 0")
    return int(number)


def _names(value: list, column: str, where: str) -> list[str] | list[int]:
    if value and all(isinstance(x, bool | int | float) for x in value):
        return [_flag(x, column, where) for x in value]
    if not all(isinstance(x, str) and x.strip() for x in value):
        raise QtxError(
            f"{where}: {column} is {str(value)[:100]!r}: expected names of labels, or a 0 or 1 for each label"
        )
    twice = next((x for x in value if value.count(x) > 1), None)
    if twice is not None:
        raise QtxError(
            f"{where}: {column} has {twice[:50]!r} twice: expected each label once; a 0 or 1 for each label goes into "
            "a list of a .jsonl, or columns of their own, data.label_column='first,second'"
        )
    return value
