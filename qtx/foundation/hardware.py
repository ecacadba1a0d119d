"""The hardware to compute on: the cores of a process, and the memory and peak rates of named accelerators, for plans
and for model FLOPs utilization."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path

GIB = 2**30
TERA = 1e12


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as JAX counts devices (on TPU v2 and v3, one of a chip's two cores).

    Attributes:
      memory: the memory in bytes; a program can use a few percent less.
      peak_bfloat16: FLOP/s of dense matrix products with bfloat16 inputs.
      peak_float32: FLOP/s of dense matrix products with float32 inputs at JAX's default precision: TF32 on NVIDIA GPUs
        since Ampere, bfloat16 passes on TPUs.
      bandwidth: bytes/s between the chip and its memory.
      kinds: texts, one of which is in JAX's `device_kind` of such a chip.
    """

    memory: float
    peak_bfloat16: float
    peak_float32: float
    bandwidth: float
    kinds: tuple[str, ...]

    def peak_flops(self, dtype: str) -> float:
        """Returns the peak FLOP/s of matrix products of a computation in `dtype`: "bfloat16" or "float32"."""
        return {"bfloat16": self.peak_bfloat16, "float32": self.peak_float32}[dtype]


def _chip(gibibytes: float, bfloat16: float, float32: float, gigabytes_per_second: float, *kinds: str) -> Chip:
    return Chip(gibibytes * GIB, bfloat16 * TERA, float32 * TERA, gigabytes_per_second * 1e9, kinds)


# From the vendors' data sheets. NVIDIA's give most rates with 2:4 sparsity, and are halved here. TPU rates are those of
# https://cloud.google.com/tpu/docs/system-architecture-tpu-vm, per chip or, for v3, per core.
CHIPS = {
    "v100-16": _chip(16, 15.7, 15.7, 900, "V100-SXM2-16GB", "V100-PCIE-16GB"),  # no bfloat16 units
    "v100-32": _chip(32, 15.7, 15.7, 900, "V100-SXM2-32GB", "V100-SXM3-32GB", "V100-PCIE-32GB"),
    "t4": _chip(16, 8.1, 8.1, 320, "Tesla T4"),  # no bfloat16 units
    "a100-40": _chip(40, 312, 156, 1555, "A100-SXM4-40GB", "A100-PCIE-40GB"),
    "a100-80": _chip(80, 312, 156, 2039, "A100-SXM4-80GB", "A100 80GB PCIe"),
    "rtx3090": _chip(24, 71, 35.6, 936, "GeForce RTX 3090"),
    "rtx4090": _chip(24, 165.2, 82.6, 1008, "GeForce RTX 4090"),
    "l4": _chip(24, 121, 60, 300, "NVIDIA L4"),
    "l40s": _chip(48, 362, 183, 864, "NVIDIA L40S"),
    "h100-pcie": _chip(80, 756, 378, 2039, "H100 PCIe"),
    "h100-nvl": _chip(94, 835, 417, 3938, "H100 NVL"),
    "h100-sxm": _chip(80, 989, 494, 3352, "H100 80GB HBM3"),
    "h200": _chip(141, 989, 494, 4800, "H200"),
    "b200": _chip(180, 2250, 1125, 7700, "B200"),
    "tpu-v3": _chip(16, 61.5, 61.5, 450, "TPU v3"),
    "tpu-v4": _chip(32, 275, 275, 1228, "TPU v4"),
    "tpu-v5e": _chip(16, 197, 197, 819, "TPU v5 lite", "TPU v5e"),
    "tpu-v5p": _chip(95, 459, 459, 2765, "TPU v5"),
    "tpu-v6e": _chip(32, 918, 918, 1640, "TPU v6 lite", "TPU v6e"),
}
"""Chips by the name that `qtx plan --chip` takes."""


def chip_of(device_kind: str) -> Chip | None:
    """Finds the chip behind `jax.Device.device_kind`, e.g. "NVIDIA H100 80GB HBM3"; None for CPUs and unknown chips."""
    matches = [(len(kind), chip) for chip in CHIPS.values() for kind in chip.kinds if kind in device_kind]
    # The longest match: "TPU v5 lite" (v5e) contains "TPU v5" (v5p), and "NVIDIA L40S" is no "NVIDIA L4".
    return max(matches, key=lambda match: match[0])[1] if matches else None


def cpu_cores() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_instructions() -> str:
    """Returns what the processor can do, "flags: fpu vme ... avx512_bf16 ...", or its name where Linux does not say."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
