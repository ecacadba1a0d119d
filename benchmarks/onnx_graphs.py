"""Encoders as ONNX graphs in ONNX Runtime: `python -m benchmarks.onnx_graphs [CHECKPOINT ...] [--output=FILE]`.

Milliseconds of a batch, in turns, and the mean cosine of the embeddings to qtx's own in floating point (32 texts of 128
tokens of the built-in prose): qtx's graphs in floating point, with the linear layers on integers (`matmul`: static,
weights per channel; `dynamic`: ranges of each call), and with everything on integers (`strict`); and where torch,
transformers and onnxscript are installed, torch's export in floating point and by `quantize_dynamic`. On one core:

    taskset -c 0 python -m benchmarks.onnx_graphs models/all-minilm-l6-v2 --output=benchmarks/results/onnx_graphs.json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import qtx
from benchmarks.timing import count, interleaved, output_file
from qtx.api.model import Model
from qtx.foundation.hardware import cpu_cores
from qtx.judge.verdicts import mean_cosine
from qtx.pipeline.quantize import under

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", default=["builtin:minilm-2l"], metavar="CHECKPOINT")
    parser.add_argument("--repeats", type=count, default=15, help="timed batches of each (default %(default)s)")
    parser.add_argument("--output", type=output_file, help="write the numbers to this JSON file too")
    options = parser.parse_args()
    import onnxruntime

    result: dict[str, Any] = {"device": "cpu", "cores": cpu_cores(), "onnxruntime": onnxruntime.__version__}
    result["models"] = {}
    for checkpoint in options.checkpoints:
        name = Path(checkpoint.removeprefix("builtin:")).name
        result["models"][name] = measured(checkpoint, options.repeats)
        print(f"{name}: {json.dumps(result['models'][name], indent=1)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measured(checkpoint: str, repeats: int) -> dict[str, Any]:
    """The times and the cosines of a model's graphs."""
    with tempfile.TemporaryDirectory() as place:
        model = qtx.load(checkpoint, options={"training.batch_size": 8, "mesh.data": 1})
        files = graphs(model, Path(place))
        sessions = {name: opened(file) for name, file in files.items()}
        batch = next(iter(model.run.assembled.data.evaluation(TEXTS)))
        expected = model.run.assembled.module.apply({"params": model.run.floating_point}, batch)
        tokens, mask = np.asarray(batch["tokens"], np.int64), np.asarray(batch.get("mask", batch["tokens"] >= 0))
        original = pooled(np.asarray(expected), mask)
        cosines = {
            name: round(mean_cosine(pooled(run(session, tokens, mask.astype(np.int64)), mask), original), 4)
            for name, session in sessions.items()
        }
        longest = model.run.assembled.module.config.max_length
        rng, times = np.random.default_rng(0), {}
        for size, length in (one for one in SIZES if one[1] <= longest):
            row = rng.integers(0, VOCABULARY, (size, length))
            calls = {
                name: lambda session=session, row=row: run(session, row, np.ones_like(row))
                for name, session in sessions.items()
            }
            seconds = interleaved(calls, repeats)
            times[f"{size} x {length}"] = {name: round(1e3 * value, 2) for name, value in seconds.items()}
        sizes = {name: round(file.stat().st_size / 1e6, 1) for name, file in files.items()}
    return {"ms": times, "cosine": cosines, "megabytes": sizes}


def graphs(model: Model, place: Path) -> dict[str, Path]:
    """The files of a model's graphs."""
    from qtx.onnx import files
    from qtx.onnx.convert import to_onnx

    module, params = model.run.assembled.module, model.run.floating_point
    made = {FLOATING: to_onnx(module, params)}
    for name, options in WAYS.items():
        made[name] = to_onnx(module, params, under(model.run.with_quantization(**options), "w8a8"))
    found = {name: place / f"{name.replace(' ', '_')}.onnx" for name in made}
    files.save({file.name: made[name].model for name, file in found.items()}, place)
    if all(importlib.util.find_spec(package) for package in PACKAGES):
        found |= of_torch(model, place)
    return found


def of_torch(model: Model, place: Path) -> dict[str, Path]:
    """The files of torch's export, and of what ONNX Runtime's dynamic quantizer makes of it."""
    import torch
    import transformers
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    encoder = transformers.AutoModel.from_pretrained(
        model.export(place / "checkpoint"), dtype=torch.float32, attn_implementation="eager"
    ).eval()

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    files = [place / "torch.onnx", place / "torch_dynamic.onnx"]
    tokens, mask = torch.full((2, 16), 5), torch.ones((2, 16), dtype=torch.int64)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        Hidden(), (tokens, mask), files[0], input_names=names, dynamo=True, verbose=False, external_data=False,
        dynamic_shapes=(sizes, sizes),
    )  # fmt: skip
    quant_pre_process(files[0], place / "prepared.onnx", skip_symbolic_shape=True)
    quantize_dynamic(place / "prepared.onnx", files[1])
    return dict(zip(OF_TORCH, files, strict=True))


def opened(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = cpu_cores(), 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def run(session: Any, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The last hidden states of tokens `[B, T]`."""
    given = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
    feeds = {x.name: given[x.name] for x in session.get_inputs()}
    return session.run([session.get_outputs()[0].name], feeds)[0]


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
