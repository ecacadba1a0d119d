"""This module translates the section `quantization`, recipes and ranges as earlier versions recorded them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qtx.foundation.variants import variant_text
from qtx.quantization.estimators import ESTIMATORS, RunningMinMax
from qtx.quantization.granularity import GRANULARITIES, Group

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


def of_this_version(section: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a recorded section `quantization`, or what a measurement records of it, to this version's.

    Earlier versions had options of an estimator and of a granularity beside their names: `percentile` and `momentum` of
    running_minmax, `groups` of group; and "mse_golden" for "mse,search=golden".
    """
    options = dict(section)
    of_estimator = {name: options.pop(name) for name in ("momentum", "percentile") if name in options}
    of_granularity = {"num_groups": options.pop("groups")} if "groups" in options else {}
    for name in ("weight_estimator", "activation_estimator"):
        if options.get(name) == "mse_golden":
            options[name] = "mse,search=golden"
    if options.get("activation_estimator") == "running_minmax":
        options["activation_estimator"] = variant_text(ESTIMATORS, RunningMinMax(**of_estimator))
    if options.get("activation_granularity") == "group":
        options["activation_granularity"] = variant_text(GRANULARITIES, Group(**of_granularity))
    return options
