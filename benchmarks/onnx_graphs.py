"""Encoders as ONNX graphs in ONNX Runtime: `python -m benchmarks.onnx_graphs [MODEL ...] [--output=FILE]`.

A model is a checkpoint, or a shape with random weights: shape:bert-base, shape:vit-s16. Milliseconds of a batch, in
turns: qtx's graphs in floating point, with the linear layers on integers (`matmul`: static, weights per channel;
`dynamic`: ranges of each call), and with everything on integers (`strict`); where torch, transformers and onnxscript
are installed, torch's export in floating point and by `quantize_dynamic`; and where OpenVINO is installed, the same
files of qtx in it. Of checkpoints also the mean cosine of the embeddings to qtx's own in floating point (32 texts of
128 tokens of the built-in prose). On one core:

    taskset -c 0 python -m benchmarks.onnx_graphs models/all-minilm-l6-v2 --output=benchmarks/results/onnx_graphs.json
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import qtx
from benchmarks.timing import count, interleaved, output_file
from qtx.families import build
from qtx.foundation.hardware import cpu_cores
from qtx.judge.verdicts import mean_cosine
from qtx.models import BertConfig, VitConfig
from qtx.pipeline.quantize import under
from qtx.quantization import QuantizationConfig, Quantized, calibrate

SIZES = ((1, 32), (1, 128), (8, 32), (8, 128), (8, 512))
TEXTS, VOCABULARY = 32, 1000
PER_CHANNEL = {"weight_granularity": "channel", "weight_estimator": "minmax"}
WAYS: dict[str, dict[str, Any]] = {
    "matmul": {"recipe": "matmul", **PER_CHANNEL},
    "dynamic": {"recipe": "matmul", "method": "dynamic", **PER_CHANNEL},
    "strict": {"recipe": "strict", **PER_CHANNEL},
}
FLOATING, OF_TORCH = "floating point", ("torch", "torch, quantize_dynamic")
PACKAGES = ("torch", "transformers", "onnxscript")
IN_OPENVINO = (FLOATING, "matmul", "strict")
BASE = {"num_layers": 12, "width": 768, "num_heads": 12, "mlp_width": 3072}
SMALL = {"num_layers": 12, "width": 384, "num_heads": 6, "mlp_width": 1536}
SHAPES: dict[str, Any] = {
    "shape:bert-base": BertConfig(**BASE, vocab_size=30522, max_length=512, head="none"),
    "shape:vit-s16": VitConfig(**SMALL, image_size=224, patch_size=16, channels=3, head="none"),
}
OF_TRANSFORMERS = {"shape:bert-base": ("BertModel", {}), "shape:vit-s16": ("ViTModel", {
    "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536,
})}  # fmt: skip

Feeds = dict[str, np.ndarray]
Session = Callable[[Feeds], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to measure: what quantizes it under options, what gives torch's encoder, and a checkpoint's examples."""

    module: Any
    params: Any
    quantized: Callable[..., Quantized]
    encoder: Callable[[], Any]
    batch: Mapping[str, Any] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["builtin:minilm-2l"], metavar="MODEL")
    parser.add_argument("--repeats", type=count, default=15, help="timed batches of each (default %(default)s)")
    parser.add_argument("--sizes", type=count, default=len(SIZES), help="so many of the sizes (default all)")
    parser.add_argument("--output", type=output_file, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    import onnxruntime

    result: dict[str, Any] = {"device": "cpu", "cores": cpu_cores(), "onnxruntime": onnxruntime.__version__}
    result["models"] = {}
    for model in options.models:
        name = Path(model).name.rpartition(":")[2]
        result["models"][name] = measured(model, options.repeats, SIZES[: options.sizes])
        print(f"{name}: {json.dumps(result['models'][name], indent=1)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def of_checkpoint(checkpoint: str, place: Path) -> Subject:
    model = qtx.load(checkpoint, options={"training.batch_size": 8, "mesh.data": 1})

    def quantized(**options: Any) -> Quantized:
        return under(model.run.with_quantization(**options), "w8a8")

    def encoder() -> Any:
        import transformers

        return transformers.AutoModel.from_pretrained(model.export(place / "checkpoint"), attn_implementation="eager")

    batch = next(iter(model.run.assembled.data.evaluation(TEXTS)))
    return Subject(model.run.assembled.module, model.run.floating_point, quantized, encoder, batch)


def of_shape(name: str) -> Subject:
    config = SHAPES[name]
    module, example = build(config), config.example()
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), example)["params"])

    def quantized(**options: Any) -> Quantized:
        chosen = QuantizationConfig(**options)
        return calibrate(module, params, chosen.make_recipe("w8a8", config), [example], 1, chosen.make_method())

    def encoder() -> Any:
        import transformers

        kind, options = OF_TRANSFORMERS[name]
        sizes = getattr(transformers, kind.replace("Model", "Config"))(**options, attn_implementation="eager")
        return getattr(transformers, kind)(sizes)

    return Subject(module, params, quantized, encoder)


def measured(name: str, repeats: int, sizes: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """The times of a model's graphs, and of a checkpoint's the cosines."""
    with tempfile.TemporaryDirectory() as place:
        subject = of_shape(name) if name in SHAPES else of_checkpoint(name, Path(place))
        files = graphs(subject, Path(place))
        sessions: dict[str, Session] = {name: opened(file) for name, file in files.items()}
        if importlib.util.find_spec("openvino"):
            sessions |= {f"OpenVINO, {name}": in_openvino(files[name]) for name in IN_OPENVINO}
        times = {}
        for label, feeds in inputs(subject.module.config, sizes):
            calls = {name: functools.partial(session, feeds) for name, session in sessions.items()}
            times[label] = {name: round(1e3 * value, 2) for name, value in interleaved(calls, repeats).items()}
        found = {"ms": times, "megabytes": {n: round(f.stat().st_size / 1e6, 1) for n, f in files.items()}}
        return found if subject.batch is None else {**found, "cosine": cosines(subject, sessions)}


def inputs(config: Any, sizes: Iterable[tuple[int, int]]) -> Iterable[tuple[str, Feeds]]:
    rng = np.random.default_rng(0)
    if config.reads == "images":
        for size in sorted({size for size, _ in sizes}):
            yield f"{size}", {"pixel_values": rng.normal(size=(size, 3, 224, 224)).astype(np.float32)}
        return
    for size, length in sizes:
        if length <= config.max_length:
            row = rng.integers(0, VOCABULARY, (size, length))
            yield f"{size} x {length}", {"input_ids": row, "attention_mask": np.ones_like(row)}


def cosines(subject: Subject, sessions: Mapping[str, Session]) -> dict[str, float]:
    batch: Any = subject.batch
    tokens, mask = np.asarray(batch["tokens"], np.int64), np.asarray(batch.get("mask", batch["tokens"] >= 0), np.int64)
    original = pooled(np.asarray(subject.module.apply({"params": subject.params}, batch)), mask)
    feeds = {"input_ids": tokens, "attention_mask": mask}
    return {name: round(mean_cosine(pooled(one(feeds), mask), original), 4) for name, one in sessions.items()}


def graphs(subject: Subject, place: Path) -> dict[str, Path]:
    """The files of a model's graphs."""
    from qtx.onnx import files
    from qtx.onnx.convert import to_onnx

    made = {FLOATING: to_onnx(subject.module, subject.params)}
    for name, options in WAYS.items():
        made[name] = to_onnx(subject.module, subject.params, subject.quantized(**options))
    found = {name: place / f"{name.replace(' ', '_')}.onnx" for name in made}
    files.save({file.name: made[name].model for name, file in found.items()}, place)
    if all(importlib.util.find_spec(package) for package in PACKAGES):
        found |= of_torch(subject, place)
    return found


def of_torch(subject: Subject, place: Path) -> dict[str, Path]:
    """The files of torch's export, and of what ONNX Runtime's dynamic quantizer makes of it."""
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    encoder = subject.encoder().float().eval()

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return self.encoder(**dict(zip(names, given, strict=True))).last_hidden_state

    files, batch = [place / "torch.onnx", place / "torch_dynamic.onnx"], torch.export.Dim("batch")
    if subject.module.config.reads == "images":
        names, given, sizes = ["pixel_values"], (torch.zeros((2, 3, 224, 224)),), ({0: batch},)
    else:
        names, open_sizes = ["input_ids", "attention_mask"], {0: batch, 1: torch.export.Dim("length", max=512)}
        given = (torch.full((2, 16), 5), torch.ones((2, 16), dtype=torch.int64))
        sizes = (open_sizes, open_sizes)
    torch.onnx.export(
        Hidden(), given, files[0], input_names=names, dynamo=True, verbose=False, external_data=False,
        dynamic_shapes=(sizes,),
    )  # fmt: skip
    quant_pre_process(files[0], place / "prepared.onnx", skip_symbolic_shape=True)
    quantize_dynamic(place / "prepared.onnx", files[1])
    return dict(zip(OF_TORCH, files, strict=True))


def opened(file: Path) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = cpu_cores(), 3
    # Threads that wait by spinning would take the time of the graph whose turn it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names, [first, *_] = [x.name for x in session.get_inputs()], session.get_outputs()
    return lambda feeds: session.run([first.name], wanted(feeds, names))[0]


def in_openvino(file: Path) -> Session:
    import openvino

    options = {"INFERENCE_NUM_THREADS": cpu_cores(), "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(file, "CPU", options)
    names = [x.any_name for x in model.inputs]
    return lambda feeds: model(wanted(feeds, names))[0]


def wanted(feeds: Feeds, names: Iterable[str]) -> Feeds:
    """The inputs of a graph; all tokens are of the first type."""
    return {name: feeds[name] if name in feeds else np.zeros_like(feeds["input_ids"]) for name in names}


def pooled(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """How much faster the graphs on integers are than qtx's in floating point."""
    return {
        f"{model}, {size}, {way}": row[FLOATING] / row[way]
        for model, found in result["models"].items()
        for size, row in found["ms"].items()
        for way in WAYS
    }


if __name__ == "__main__":
    main()
