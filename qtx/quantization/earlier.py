"""This module translates the section `quantization`, recipes and ranges as earlier versions recorded them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qtx.foundation.variants import variant_text
from qtx.quantization.estimators import ESTIMATORS, RunningMinMax
from qtx.quantization.granularity import GRANULARITIES, Group


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


def of_this_version(section: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a recorded section `quantization`, or what a measurement records of it, to this version's.

    Earlier versions had options of an estimator and of a granularity beside their names: `percentile` and `momentum` of
    running_minmax, `groups` of group.
    """
    options = dict(section)
    of_estimator = {name: options.pop(name) for name in ("momentum", "percentile") if name in options}
    of_granularity = {"num_groups": options.pop("groups")} if "groups" in options else {}
    if options.get("activation_estimator") == "running_minmax":
        options["activation_estimator"] = variant_text(ESTIMATORS, RunningMinMax(**of_estimator))
    if options.get("activation_granularity") == "group":
        options["activation_granularity"] = variant_text(GRANULARITIES, Group(**of_granularity))
    return options
