"""How devices share a training step, from the compiled program: `python -m benchmarks.scaling [--output=FILE]`.

The steps of three configs, for 1, 2, 4 and 8 virtual devices along each axis of the mesh, with the batch as it is:
FLOPs of the matrix products that one device computes, what it exchanges with others, and the memory that it needs.
`shared` is 1 if no device does what another does. Nothing runs: times on virtual devices would say nothing.

    python -m benchmarks.scaling --output=benchmarks/results/scaling.json
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.timing import output_file
from qtx.experiment import read
from qtx.foundation.hardware import GIB
from qtx.foundation.run_file import run_file
from qtx.planning import plan_step, virtual_devices
from qtx.training import MeshConfig
from qtx.training.sharding import MESH_AXES

CONFIGS = ("bert_base", "opt_125m", "vit_s16")
COUNTS = (1, 2, 4, 8)
FOLDER = Path(__file__).parents[1] / "configs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = sorted(file.stem for file in FOLDER.glob("*.py"))
    parser.add_argument(
        "--configs",
        nargs="+",
        default=CONFIGS,
        choices=names,
        metavar="NAME",
        help="of configs/ (default: %(default)s)",
    )
    parser.add_argument("--output", type=output_file, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    devices = virtual_devices(max(COUNTS))
    result: dict[str, Any] = {"configs": {}}
    for name in options.configs:
        experiment = read(run_file(FOLDER / f"{name}.py")["get_config"]())
        rows = result["configs"][name] = {axis: {} for axis in MESH_AXES}
        for axis in MESH_AXES:
            for count in COUNTS:
                mesh = MeshConfig(**dict.fromkeys(MESH_AXES, 1) | {axis: count})
                row = shares(plan_step(dataclasses.replace(experiment, mesh=mesh), devices[:count]))
                rows[axis][count] = row
                print(f"{name}, {axis} {count}: {json.dumps(row)}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def shares(plan: Any) -> dict[str, float]:
    """Of one device; FLOPs and bytes of one step."""
    return {
        "gflops": round(plan.device_flops / 1e9, 1),
        "shared": round(plan.step_flops / plan.device_flops / plan.devices, 3),
        "exchanged_gib": round(sum(traffic.bytes for traffic in plan.collectives.values()) / GIB, 3),
        "memory_gib": round(plan.total / GIB, 2),
    }


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """The share of the products that no other device computes too."""
    return {
        f"{name}, {axis} {count}, shared": row["shared"]
        for name, rows in result["configs"].items()
        for axis, counts in rows.items()
        for count, row in counts.items()
    }


if __name__ == "__main__":
    main()
