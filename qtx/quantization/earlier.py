"""This module translates what earlier versions wrote of quantization: the texts of methods, recipes and ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def words_of_this_version(words: str) -> str:
    """Translates a file's words on how a tensor is quantized to this version's; accepts ranges that counted padding.

    Earlier versions had an option `ignore_masked` of quantizers, to leave out keys that a query does not see: the
    default now, and for padding too; and an option `search` of the estimators `mse` and `lp`.
    """
    return re.sub(r"\bignore_masked=\w+", "count_padding=False", words).replace("search='grid', ", "")


def fields_of_this_version(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Translates the recorded fields of one part of a recipe to this version's."""
    known = {name: value for name, value in fields.items() if name != "ignore_masked"}
    return {name: value for name, value in known.items() if (name, value) != ("search", "grid")}


def method_of_this_version(text: str) -> str:
    """Translates the text of a method: earlier versions had an option of gptq, `bases`, for the method before it."""
    bases = re.search(r"\s*,\s*bases\s*=\s*(\w+)", text)
    if bases is None or not text.startswith("gptq"):
        return text
    gptq = text.replace(bases[0], "")
    return gptq if bases[1] == "none" else f"{bases[1]} + {gptq}"
