"""How earlier versions recorded the section `quantization`, recipes and ranges, translated where a record is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qtx.foundation.variants import variant_text
from qtx.quantization.estimators import ESTIMATORS, RunningMinMax
from qtx.quantization.granularity import GRANULARITIES, Group

LEFT_OUT = "ignore_masked"
"""An option of a quantizer, to leave keys out that a query does not see: they are now, and so is padding."""


def words_of_this_version(words: str) -> str:
    """How a tensor is quantized, in a file of ranges, as this version says it; ranges that counted padding are read."""
    return re.sub(rf"\b{LEFT_OUT}=\w+", "count_padding=False", words)


def of_this_version(section: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded section `quantization`, or what a measurement records of it, as this version records it.

    Earlier ones had options of an estimator and of a granularity beside their names: `percentile` and `momentum` of
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
