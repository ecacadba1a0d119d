"""JSON from anywhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from qtx.foundation.storage.whole import Expected, read_bytes


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


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key occurs twice")
    return values
