"""From fake quantization to integers: `convert`."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn

from qtx.quantization import exact
from qtx.quantization.basis import basis_of
from qtx.quantization.calibration import Quantized
from qtx.quantization.integer.grids import Grids, read_grids
from qtx.quantization.integer.kernels import dense, integers_of
from qtx.quantization.integer.model import IntegerModel, Tensors
from qtx.quantization.integer.outline import outline
from qtx.quantization.integer.wiring import Wiring
from qtx.quantization.weights import STACK, flatten, is_table

TIED = "embeddings/words/embedding"
"""The table that BERT's and OPT's heads multiply by, unquantized, and so kept in floating point, once."""


def convert(quantized: Quantized) -> IntegerModel:
    """The model that `quantized` simulates.

    Args:
      quantized: calibrated, per tensor and static (weights also per output channel), 2 to 8 bits. What it leaves in
        floating point stays there.

    Raises:
      QtxError: for more bits, or a granularity that integers cannot do.
    """
    module = float32(quantized.module)
    shapes, pre_norm = outline(module)
    wiring = Wiring(pre_norm, gated=module.config.attention.gate != "none")  # type: ignore[attr-defined]
    grids = read_grids(quantized, wiring)
    params = flatten(quantized.params)
    integers: Tensors = {}
    for path, x in params.items():
        site = path.rpartition("/")[0]
        if path.endswith("/kernel") and site in wiring.inputs:
            integers |= dense(site, params, grids, wiring.inputs[site])
        elif path.startswith(f"{STACK}attention/gate_predictor/"):
            integers[path.replace("gate_predictor/", "gate_predictor/parameters/")] = x
        elif path.startswith(STACK) and f"{site}/kernel" not in params:
            integers[path] = x
        elif is_table(path) and path != TIED and path in grids.weights and not basis_of(grids.weights[path]):
            integers[f"{site}/table"] = integers_of(x, grids.weights[path])
    for site, grid in grids.sites.items():
        integers |= {f"{site}/grid/{name}": value for name, value in grid.items()}
    kept = {path: x for path, x in params.items() if not path.startswith(STACK)}
    kept = {path: x for path, x in kept.items() if path.removesuffix("embedding") + "table" not in integers}
    return IntegerModel(module, _in_floating_point(shapes, wiring, grids, integers), kept, integers)


def float32(module: Any) -> nn.Module:
    """The module computing in float32 between the products, and, as it does not train, without rematerialization."""
    module = exact.float32(module)
    return module.clone(config=dataclasses.replace(module.config, remat="none"))


def _in_floating_point(
    shapes: dict[str, tuple[int, ...]], wiring: Wiring, grids: Grids, integers: Tensors
) -> tuple[str, ...]:
    around = {
        path.removesuffix("/kernel") for path in shapes if path.endswith("/kernel") and not path.startswith(STACK)
    }
    tied = {"head/logits"} if TIED in shapes else set()
    dense = {site for site in wiring.inputs if f"{site}/offset" not in integers}
    products = {site for site, operands in wiring.products.items() if not all(map(grids.integer, operands))}
    gate = {f"{STACK}attention/gate_predictor"} if wiring.gated else set()
    rotated = {f"{site} (its rotation)" for site, grid in grids.sites.items() if "rotation" in grid}
    return tuple(sorted(around | tied | dense | products | gate | rotated))
