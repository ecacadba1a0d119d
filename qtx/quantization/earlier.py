"""This module translates what earlier versions wrote of quantization: the texts of methods, recipes and ranges."""

from __future__ import annotations

import re

LEFT_OUT = "ignore_masked"
"""A former option of quantizers, to leave out keys that a query does not see: the default now, and for padding too."""


def words_of_this_version(words: str) -> str:
    """Translates a file's words on how a tensor is quantized to this version's; accepts ranges that counted padding."""
    return re.sub(rf"\b{LEFT_OUT}=\w+", "count_padding=False", words)


def method_of_this_version(text: str) -> str:
    """Translates the text of a method: earlier versions had an option of gptq, `bases`, for the method before it."""
    bases = re.search(r"\s*,\s*bases\s*=\s*(\w+)", text)
    if bases is None or not text.startswith("gptq"):
        return text
    gptq = text.replace(bases[0], "")
    return gptq if bases[1] == "none" else f"{bases[1]} + {gptq}"
