"""Conversion of fake-quantized models to integers: `convert`."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn

from qtx.anatomy import read
from qtx.quantization import float32_only
from qtx.quantization.basis import BASES, basis_of
from qtx.quantization.calibration import Quantized
from qtx.quantization.integer.grids import read_grids
from qtx.quantization.integer.kernels import dense_variables, integers_of
from qtx.quantization.integer.model import IntegerModel, Tensors, as_table
from qtx.quantization.plan import flatten, is_table


def convert(quantized: Quantized) -> IntegerModel:
    """Returns the integer model that `quantized` simulates.

    Args:
      quantized: calibrated, per tensor and static (weights also per output channel), 2 to 8 bits. Tensors that it
        leaves in floating point stay there.

    Raises:
      QtxError: for more than 8 bits, or a granularity that integers cannot do.
    """
    module = for_inference(quantized.module)
    grids, found = read_grids(quantized), read(module, module.config.example()).operands
    params, integers = flatten(quantized.params), Tensors()
    floating = set(found.elsewhere)
    for path, sources in sorted(found.of.items()):
        kernel, bias = params.get(f"{path}/kernel"), params.get(f"{path}/bias")
        wanted = kernel is None or f"{path}/kernel" in grids.weights
        entering = [grids.of(source) if wanted else None for source in sources]
        if kernel is None:
            sides = zip(("left", "right"), entering, strict=True)
            exact_sums = all(fields is not None and not basis_of(fields) for fields in entering)
            node = {f"{side}/{name}": x for side, fields in sides for name, x in (fields or {}).items()}
            node, integer = (node, True) if exact_sums else ({}, False)
        else:
            node = dense_variables(kernel, bias, grids.weights.get(f"{path}/kernel"), entering[0]) or {}
            integer = "offset" in node
        integers |= {f"{path}/{name}": x for name, x in node.items()}
        floating |= set() if integer else {path}
    for path, x in params.items():
        # A tied head multiplies by the unquantized table, which is kept in floating point, once.
        own = is_table(path) and path not in found.tied
        if own and path in grids.weights and not basis_of(grids.weights[path]):
            integers[as_table(path)] = integers_of(x, grids.weights[path])
    for site, grid in grids.sites.items():
        integers |= {f"{site}/grid/{name}": value for name, value in grid.items()}
    mixed = {site for site, grid in grids.sites.items() if any(BASES[name].mixes for name in basis_of(grid))}
    floating |= {f"{site} (its rotation)" for site in mixed}
    kept = {path: x for path, x in params.items() if not {path, as_table(path)} & integers.keys()}
    return IntegerModel(module, tuple(sorted(floating)), kept, integers)


def for_inference(module: Any) -> nn.Module:
    """Returns the module computing in float32 between products and, as it does not train, without rematerialization."""
    module = float32_only.float32(module)
    return module.clone(config=dataclasses.replace(module.config, remat="none"))
