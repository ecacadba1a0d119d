"""Named chips, and finding the one that JAX reports."""

from __future__ import annotations

import pytest

from qtx.foundation.hardware import CHIPS, GIB, chip_of


@pytest.mark.parametrize("name", CHIPS)
def test_every_chip_is_plausible_and_found_by_what_jax_calls_it(name):
    chip = CHIPS[name]
    assert 8 * GIB <= chip.memory <= 512 * GIB
    assert 1e12 < chip.peak_float32 <= chip.peak_bfloat16 < 1e16
    assert 1e11 < chip.bandwidth < 2e13
    assert all(chip_of(kind) is chip for kind in chip.kinds)


@pytest.mark.parametrize(
    ("device_kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("TPU v4", "tpu-v4"),
        ("TPU v5 lite", "tpu-v5e"),
        ("TPU v5", "tpu-v5p"),
        ("TPU v5p", "tpu-v5p"),
        ("TPU v6 lite", "tpu-v6e"),
    ],
)
def test_device_kinds(device_kind, name):
    assert chip_of(device_kind) is CHIPS[name]


@pytest.mark.parametrize("device_kind", ["cpu", "NVIDIA Tomorrow"])
def test_unknown_devices_have_no_chip(device_kind):
    assert chip_of(device_kind) is None


def test_peaks_by_dtype():
    assert CHIPS["h100-sxm"].peak_flops("bfloat16") == 989e12
    assert CHIPS["h100-sxm"].peak_flops("float32") == 494e12
