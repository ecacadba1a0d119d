"""JSON from anywhere, and qtx's own with a checksum."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qtx.foundation.storage.whole import Expected, read_bytes

CHECKSUM = "checksum"
"""The key of the SHA-256 of an object's other keys."""


def parse_json(content: bytes | str, source: Path | str, expected: Expected, finite: bool = True) -> dict[str, Any]:
    """Returns the object that a JSON text holds.

    Args:
      content: the text, or its bytes in UTF-8, with or without a byte-order mark.
      source: what messages call the text.
      expected: what the text should be.
      finite: whether to refuse NaN and Infinity, which JSON does not have, and numbers too large to be finite.

    Raises:
      QtxError: if the text is not one object of JSON, of text that can be printed, in which no key occurs twice.
    """

    def number(text: str) -> float:
        value = float(text)
        if finite and not math.isfinite(value):
            raise ValueError(f"{text} is not a finite number")
        return value

    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        values = json.loads(text, parse_float=number, parse_constant=number, object_pairs_hook=_distinct)
        if "\\ud" in text.lower():
            json.dumps(values, ensure_ascii=False).encode()  # halves of surrogate pairs are no text
    except (ValueError, RecursionError) as error:  # malformed, or thousands of digits; nested too deeply
        raise expected.refusal(source, f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise expected.refusal(source, "not a JSON object")
    return values


def read_json(path: Path, expected: Expected) -> dict[str, Any]:
    """Reads the object in a JSON file from elsewhere; raises the errors of `parse_json`."""
    return parse_json(read_bytes(path, expected), path, expected)


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `values`, of JSON types, with their checksum, for `unseal` to take back."""
    return {**values, CHECKSUM: _checksum(values)}


def unseal(values: Mapping[str, Any], source: Path | str, expected: Expected) -> dict[str, Any]:
    """Returns the values that `seal` was given.

    Raises:
      QtxError: if `values` have no checksum, or one that does not fit.
    """
    content = {key: value for key, value in values.items() if key != CHECKSUM}
    if CHECKSUM not in values:
        raise expected.refusal(source, f"it has no {CHECKSUM}: another version wrote it")
    if values[CHECKSUM] != _checksum(content):
        raise expected.refusal(source, f"its {CHECKSUM} does not fit its content: it is damaged or was edited")
    return content


def sealed_json(values: Mapping[str, Any]) -> bytes:
    """Returns a file's content, with a checksum, for people to read and for `read_sealed_json`."""
    return (json.dumps(seal(values), indent=2) + "\n").encode()


def read_sealed_json(path: Path, expected: Expected) -> dict[str, Any]:
    """Reads the values of a file that `sealed_json` made, infinite measurements included.

    Raises:
      QtxError: if the file is anything else.
    """
    return unseal(parse_json(read_bytes(path, expected), path, expected, finite=False), path, expected)


def _checksum(values: Mapping[str, Any]) -> str:
    # The checksum is of the content, not of the text: white space and the order of keys do not matter.
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values
