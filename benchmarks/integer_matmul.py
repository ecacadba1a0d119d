"""How fast an encoder of BERT-base's width, or of another, runs on integers: `python -m benchmarks.integer_matmul`.

Random weights. FP32, bfloat16, fake quantization and integers (of every product, by the recipe `paper_bert`, and of the
linear layers alone, by `matmul`) in one run, call by call in turns, then the matrix products alone. FP32 is at JAX's
default precision, which on GPUs is TF32.
Pin it to a core for a quiet machine's numbers: `taskset -c 0 python -m benchmarks.integer_matmul`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import platform
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import count, interleaved, output_file
from qtx.families import build
from qtx.foundation.hardware import cpu_cores
from qtx.models import BertConfig
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.integer import IntegerModel, convert, save
from qtx.quantization.integer.products import multiply

KINDS = ("fp32", "bf16", "int8")
NAMES = {
    "fp32": "FP32",
    "bf16": "bfloat16",
    "fake": "fake quantization",
    "integer": "integers",
    "linear": "of linear layers",
}
VOCABULARY = 1000
"""Small, and the head predicts one position: what is timed is the encoder."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=count, default=2, help="encoder layers (default %(default)s)")
    parser.add_argument("--width", type=count, default=768, help="of the embedding, 12 heads (default %(default)s)")
    parser.add_argument("--batch", type=count, default=8, help="sequences (default %(default)s)")
    parser.add_argument("--length", type=count, default=128, help="tokens of each (default %(default)s)")
    parser.add_argument("--repeats", type=count, default=15, help="timed calls of each (default %(default)s)")
    parser.add_argument("--output", type=output_file, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    sizes = {"width": options.width, "num_heads": 12, "mlp_width": 4 * options.width}
    config = BertConfig(num_layers=options.layers, vocab_size=VOCABULARY, max_length=options.length, **sizes)
    shape = {"layers": options.layers, "width": config.width, "heads": config.num_heads, "mlp": config.mlp_width}
    shape |= {"batch": options.batch, "length": options.length}
    device = jax.devices()[0].device_kind
    cores = cpu_cores()
    result: dict[str, Any] = {"shape": shape, "device": device, "machine": platform.machine(), "cores": cores}
    of_encoder, facts = encoder(config, options.batch, options.length)
    kinds = products(config, options.batch, options.length)
    of_products = {(name, kind): f for name, row in kinds.items() for kind, f in row.functions().items()}
    seconds = interleaved(of_encoder | of_products, options.repeats)
    result |= {"encoder_ms": {name: 1e3 * seconds[name] for name in of_encoder}, **facts}
    rows = {
        name: {kind: 1e3 * seconds[name, kind] for kind in KINDS} | {"per_layer": row.per_layer}
        for name, row in kinds.items()
    }
    totals = {kind: options.layers * math.fsum(row[kind] * row["per_layer"] for row in rows.values()) for kind in KINDS}
    result["products_ms"] = rows | {"all of the encoder": totals}
    report(result)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def encoder(config: BertConfig, batch_size: int, length: int) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The whole model as functions to time, and what the integers' answer differs by and the files take."""
    module, rng = build(config), np.random.default_rng(0)
    batch = {
        "tokens": jnp.asarray(rng.integers(0, VOCABULARY, (batch_size, length))),
        "positions": jnp.zeros((batch_size, 1), jnp.int32),
    }
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    recipes = [QuantizationConfig(recipe=name).make_recipe("w8a8", config) for name in ("paper_bert", "matmul")]
    quantized, of_layers = (calibrate(module, params, recipe, [batch], 1) for recipe in recipes)
    integer, linear = convert(quantized), convert(of_layers)

    apply = jax.jit(lambda model, batch: model.apply(batch))
    fp32, bf16 = jax.jit(module.apply), jax.jit(build(dataclasses.replace(config, dtype="bfloat16")).apply)
    functions = {
        "fp32": lambda: fp32({"params": params}, batch),
        "bf16": lambda: bf16({"params": params}, batch),
        "fake": lambda: apply(quantized, batch),
        "integer": lambda: apply(integer, batch),
        "linear": lambda: apply(linear, batch),
    }
    answers = {name: np.asarray(function(), np.float64) for name, function in functions.items()}

    def difference(name: str, reference: str) -> float:
        return float(np.linalg.norm(answers[name] - answers[reference]) / np.linalg.norm(answers[reference]))

    return functions, {
        "integer_from_fake": difference("integer", "fake"),
        "integer_from_fp32": difference("integer", "fp32"),
        "fake_from_fp32": difference("fake", "fp32"),
        "in_floating_point": list(integer.in_floating_point),
        "megabytes": file_sizes(integer, params),
    }


def file_sizes(integer: IntegerModel, params: Any) -> dict[str, float]:
    """Megabytes of the saved integers, and of the same parameters in float32: of all, and of the layers alone."""
    with tempfile.TemporaryDirectory() as folder:
        save(integer, folder)
        written = sum(file.stat().st_size for file in Path(folder).iterdir())
    layers = sum(x.nbytes for path, x in integer.integers.items() if path.startswith("layers/"))
    sizes = {
        "integer": written,
        "fp32": sum(x.nbytes for x in jax.tree.leaves(params)),
        "integer_layers": layers,
        "fp32_layers": sum(x.nbytes for x in jax.tree.leaves(params["layers"])),
    }
    return {name: size / 1e6 for name, size in sizes.items()}


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product of the encoder: `equation` as of `jnp.einsum`, shapes of its operands, and how often a layer has
    it."""

    equation: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    per_layer: int

    def functions(self) -> dict[str, Any]:
        """The product by itself, of each of `KINDS`, as functions to time."""
        rng = np.random.default_rng(0)
        integers = [jnp.asarray(rng.integers(-128, 128, shape), jnp.int8) for shape in (self.left, self.right)]
        in_floats = jax.jit(functools.partial(jnp.einsum, self.equation))
        return {
            "fp32": functools.partial(in_floats, *(x.astype(jnp.float32) for x in integers)),
            "bf16": functools.partial(in_floats, *(x.astype(jnp.bfloat16) for x in integers)),
            "int8": functools.partial(jax.jit(functools.partial(multiply, self.equation)), *integers),
        }


def products(config: BertConfig, batch: int, length: int) -> dict[str, Product]:
    """The kinds of products that the encoder has."""
    tokens, width, mlp, heads = batch * length, config.width, config.mlp_width, config.num_heads
    per_head = (batch, length, heads, width // heads)
    return {
        "query, key, value, out": Product("nd,df->nf", (tokens, width), (width, width), 4),
        "mlp/in": Product("nd,df->nf", (tokens, width), (width, mlp), 1),
        "mlp/out": Product("nd,df->nf", (tokens, mlp), (mlp, width), 1),
        "scores": Product("bthd,bshd->bhts", per_head, per_head, 1),
        "context": Product("bhts,bshd->bthd", (batch, heads, length, length), per_head, 1),
    }


def report(result: dict[str, Any]) -> None:
    """Prints a result."""
    shape = ", ".join(f"{name} {value}" for name, value in result["shape"].items())
    print(f"{shape}; {result['device']} ({result['machine']}), {result['cores']} cores; random weights, W8A8\n")
    times = result["encoder_ms"]
    print(f"{'encoder':24}{'ms':>10}{'FP32 / it':>12}")
    for name, title in NAMES.items():
        print(f"{title:24}{times[name]:10.1f}{times['fp32'] / times[name]:12.2f}")
    print(f"\n{'product':24}{'FP32 ms':>10}{'bf16 ms':>10}{'int8 ms':>10}{'FP32 / int8':>13}")
    rows = result["products_ms"]
    for name, row in rows.items():
        print(f"{name:24}{row['fp32']:10.2f}{row['bf16']:10.2f}{row['int8']:10.2f}{row['fp32'] / row['int8']:13.2f}")
    total = rows["all of the encoder"]
    rest = {"FP32": times["fp32"] - total["fp32"], "integers": times["integer"] - total["int8"]}
    print("\nthe rest (softmax, LayerNorm, GELU, rounding, embeddings, head): ", end="")
    print(", ".join(f"{name} {value:.1f} ms" for name, value in rest.items()))
    print(
        f"relative distance of the logits: integers from fake quantization {result['integer_from_fake']:.1e}, ", end=""
    )
    print(f"from FP32 {result['integer_from_fp32']:.1e}; fake quantization from FP32 {result['fake_from_fp32']:.1e}")
    print(f"in floating point: {', '.join(result['in_floating_point'])}")
    sizes = result["megabytes"]
    print(f"files: {sizes['integer']:.1f} MB, {sizes['integer'] / sizes['fp32']:.3f} of FP32; ", end="")
    print(f"layers {sizes['integer_layers']:.1f} MB, {sizes['integer_layers'] / sizes['fp32_layers']:.3f} of FP32")


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast as FP32, and as small."""
    encoder, products, size = result["encoder_ms"], result["products_ms"]["all of the encoder"], result["megabytes"]
    return {
        **{f"encoder, {name} / fp32": encoder["fp32"] / encoder[name] for name in ("fake", "integer", "linear")},
        "products, int8 / fp32": products["fp32"] / products["int8"],
        "file, fp32 / int8": size["fp32"] / size["integer"],
    }


if __name__ == "__main__":
    main()
