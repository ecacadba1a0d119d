"""The measurements of one run are kept in its results.json, to which every command adds.

    {"variant": "softmax", "seed": 0, "parameters": 52096, "metric": "perplexity", "measurements": [
      {"checkpoint": 600, "data": {...}, "held_out_batches": {"used": 36, "of": 36}, "scheme": "fp",
       "values": {"loss": 3.48, "perplexity": 32.6, ...}},
      {"checkpoint": 600, "data": {...}, "held_out_batches": {"used": 36, "of": 36}, "scheme": "w8a8",
       "method": "static", "ranges": "calibrated", "options": {...}, "values": {"loss": 3.49, ...}}]}

A measurement says all that it depends on: the checkpoint (updates done); the data, with the SHA-256 of both splits,
whether they are the run's `own`, and how many of the held-out batches were used; for a quantized model also the method,
the other options of calibration, and where the ranges are from. A new measurement replaces one that agrees in all this.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from qtx.foundation.storage import Expected, read_sealed_json, sealed_json, shaped
from qtx.pages.results import EXEMPT, Result
from qtx.training import RunFolder

EXPECTED = Expected("the results of a run of this version of qtx", "move it away, and measure again")

FLOATING_POINT = "fp"
HEAD = ("variant", "seed", "parameters", "metric")
BESIDE = {"centred_fidelity": "quantized_centred_fidelity", "perplexity": "quantized_perplexity"}
"""Metrics that some models are measured by beside their own: the key in a measurement, and that in a result of all
quantized models, by scheme."""
# Options of the section `quantization` that no measurement depends on, or that it has entries of its own for.
NOT_OPTIONS = ("schemes", "method", "sensitivity_batches")

Measurement = dict[str, Any]


def calibration_options(quantization: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a config's section `quantization`, as in config.json, that a measurement records; exempt
    tensors only where there are some, since earlier versions had none."""
    left = NOT_OPTIONS if quantization.get(EXEMPT) else (*NOT_OPTIONS, EXEMPT)
    return {name: value for name, value in quantization.items() if name not in left}


def add(folder: RunFolder, head: Mapping[str, Any], new: Iterable[Measurement]) -> None:
    """Adds measurements to a run's results.json.

    Args:
      folder: the run's folder.
      head: what all results of the run have in common (`HEAD`).
      new: the measurements, which replace those under the same conditions.
    """
    kept = {_conditions(measurement): measurement for measurement in read_measurements(folder)["measurements"]}
    for measurement in new:
        kept[_conditions(measurement)] = json.loads(json.dumps(measurement))
    folder.write(folder.results.name, sealed_json({**head, "measurements": list(kept.values())}).decode())


def read_measurements(folder: RunFolder) -> dict[str, Any]:
    """Reads a run's results.json; returns no measurements if there is none.

    Raises:
      QtxError: if the file is not of this version of qtx, or not as it was written.
    """
    if not folder.results.exists():
        return {"measurements": []}
    found = read_sealed_json(folder.results, EXPECTED)
    try:
        for measurement in found["measurements"]:
            shaped(measurement["values"], dict[str, float])
            shaped(measurement["held_out_batches"], dict[str, int])
            shaped([measurement["scheme"]], list[str])
            shaped([measurement["checkpoint"]], list[int])
    except (KeyError, TypeError) as error:
        raise EXPECTED.refusal(folder.results, f"{error!r}") from None
    return found


def _conditions(measurement: Measurement) -> str:
    return json.dumps({name: value for name, value in measurement.items() if name != "values"}, sort_keys=True)


def as_result(head: Mapping[str, Any], measurements: Iterable[Measurement]) -> Result:
    """Makes the line of a comparison's results (see `qtx.pages.results`) from the measurements of one checkpoint: the
    one in floating point, and the quantized ones by scheme."""
    by_scheme = {measurement["scheme"]: measurement for measurement in measurements}
    of_fp, metric = by_scheme.pop(FLOATING_POINT), head["metric"]
    values = dict(of_fp["values"])
    seconds = values.pop("seconds")
    fp, loss = values.pop(metric), values.pop("loss")
    methods = {measurement["method"] for measurement in by_scheme.values()}
    beside = {
        of_all: {scheme: measurement["values"].get(name) for scheme, measurement in by_scheme.items()}
        for name, of_all in BESIDE.items()
        if name != metric
    }
    exempt = max((len(one.get("options", {}).get(EXEMPT, ())) for one in by_scheme.values()), default=0)
    return {
        **{name: head[name] for name in HEAD},
        "checkpoint": of_fp["checkpoint"],
        "fp": fp,
        "loss": loss,
        **values,
        "method": ", ".join(sorted(methods)) or None,
        "quantized": {scheme: measurement["values"][metric] for scheme, measurement in by_scheme.items()},
        **({EXEMPT: exempt} if exempt else {}),
        **{name: values for name, values in beside.items() if values and None not in values.values()},
        "seconds": seconds,
    }


def find_result(
    folder: RunFolder, checkpoint: int, eval_batches: int | None, quantization: Mapping[str, Any]
) -> Result | None:
    """Finds a run's line of a comparison's results: at a checkpoint, on its own data (so many held-out batches, or
    all), under the schemes and options of a config's section `quantization`; None if a part is missing."""
    found = read_measurements(folder)
    wanted = {FLOATING_POINT: None, **dict.fromkeys(quantization["schemes"])}
    for measurement in found["measurements"]:
        held_out = measurement["held_out_batches"]
        same = measurement["checkpoint"] == checkpoint and measurement["data"]["own"]
        same = same and held_out["used"] == min(eval_batches or held_out["of"], held_out["of"])
        floating = measurement["scheme"] == FLOATING_POINT
        if same and (floating or _is_under(measurement, quantization)) and measurement["scheme"] in wanted:
            wanted[measurement["scheme"]] = measurement
    if None in wanted.values():
        return None
    return as_result(found, [measurement for measurement in wanted.values() if measurement is not None])


def _is_under(measurement: Measurement, quantization: Mapping[str, Any]) -> bool:
    """Says whether a quantized measurement was calibrated by a config's own method and options."""
    return (
        measurement["method"] == quantization["method"]
        and measurement["ranges"] == "calibrated"
        and measurement["options"] == calibration_options(quantization)
    )
