"""Training steps of qtx and of transformers' PyTorch models, side by side: `python -m benchmarks.training_step`.

Forward, backward, clipping by the global norm and AdamW, with dropout 0.1, on random tokens or images; in one process,
call by call in turns, after some that do not count, in which memory still grows. Both compute what a user of each gets:
`BertForMaskedLM` runs its head at every position, qtx at the predicted ones alone. `torch_eager` is a model as
transformers makes it, with PyTorch's fused attention; `torch_naive` has the attention in single operations, as qtx
does; `torch_compile` is the first one compiled; `timm_eager` is timm's ViT, where timm is installed. Without torch and
transformers qtx is timed alone. Pin it to one core, which both then use alone:

    taskset -c 0 python -m benchmarks.training_step --output=benchmarks/results/training_step.json

On a GPU both use it, and share its memory:

    XLA_PYTHON_CLIENT_PREALLOCATE=false python -m benchmarks.training_step --compile --dtype=bfloat16 \\
        --shapes bert_base opt_125m vit_s16 --output=benchmarks/results/training_step_gpu.json

Parameters are float32; with bfloat16, PyTorch's run under autocast. `utilization` is qtx's share of the chip's peak, by
the products that the model needs (`qtx.models.flops`), where the chip is known.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.timing import count, interleaved, output_file
from qtx.cli.cpu_memory import keep_freed_memory
from qtx.data.masking import num_predictions
from qtx.families import FAMILIES, build
from qtx.foundation.hardware import chip_of, cpu_cores
from qtx.models.flops import step_flops
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.program import make_program
from qtx.training.sharding import make_mesh, shard_global_batch

DROPOUT = 0.1
TINY = dict(num_layers=4, width=256, num_heads=4, mlp_width=1024, max_length=128, vocab_size=8192)
SIX_LAYERS = dict(num_layers=6, width=768, num_heads=12, mlp_width=3072, max_length=128, vocab_size=30522)
BASE = dict(num_layers=12, width=768, num_heads=12, mlp_width=3072)
SHAPES = {
    "bert_tiny": ("bert", TINY, 32),
    "opt_tiny": ("opt", TINY, 32),
    "bert_6l": ("bert", SIX_LAYERS, 8),
    "opt_6l": ("opt", SIX_LAYERS, 8),
    "bert_base": ("bert", BASE | dict(max_length=128, vocab_size=30522), 256),
    "opt_125m": ("opt", BASE | dict(max_length=512, vocab_size=50272), 32),
    "vit_ti16": (
        "vit",
        dict(num_layers=12, width=192, num_heads=3, mlp_width=768, image_size=224, channels=3, num_classes=1000),
        16,
    ),
    "vit_s16": (
        "vit",
        dict(num_layers=12, width=384, num_heads=6, mlp_width=1536, image_size=224, channels=3, num_classes=1000),
        256,
    ),
}
ON_ANY_CORE = ("bert_tiny", "opt_tiny", "bert_6l", "opt_6l", "vit_ti16")
WARM_UP_STEPS = 6
TRAINING = TrainingConfig(steps=10**6, warmup_steps=0, learning_rate=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=ON_ANY_CORE, choices=SHAPES, help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="default %(default)s")
    parser.add_argument("--batch", type=count, help="examples, rather than the shape's own")
    parser.add_argument("--repeats", type=count, default=15, help="timed steps of each (default %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (takes minutes to compile)")
    parser.add_argument("--output", type=output_file, help="put the numbers into this JSON file too")
    options = parser.parse_args()
    beside = all(map(importlib.util.find_spec, ("torch", "transformers")))
    if not beside:
        print("torch and transformers are not installed: qtx is timed alone (pip install qtx[hf])", file=sys.stderr)
    keep_freed_memory()  # as the command line does; PyTorch gains by it too
    device, cores = jax.devices()[0].device_kind, cpu_cores()
    result: dict[str, Any] = {"device": device, "machine": platform.machine(), "cores": cores}
    result |= {"dtype": options.dtype, "shapes": {}}
    if options.output and options.output.exists():  # of other shapes
        result["shapes"] = json.loads(options.output.read_text(encoding="utf-8"))["shapes"]
    chip = chip_of(device)
    for name in options.shapes:
        family, shape, batch_size = SHAPES[name]
        batch_size = options.batch or batch_size
        shape = shape | {"dtype": options.dtype}
        batch = random_batch(family, shape, batch_size)
        module = model(family, shape)
        steps: dict[str, Callable[[], Any]] = {"qtx": Step(module, batch)}
        if beside:
            steps |= torch_steps(family, shape, batch, options.compile)
        interleaved(steps, WARM_UP_STEPS)
        seconds = interleaved(steps, options.repeats)
        row: dict[str, Any] = {"batch": batch_size}
        if "tokens" in batch:
            row |= {"length": shape["max_length"]}
            row |= {"tokens_per_second": {kind: round(batch["tokens"].size / v) for kind, v in seconds.items()}}
        else:
            row |= {"images_per_second": {kind: round(batch_size / v) for kind, v in seconds.items()}}
        row |= {"ms": {kind: round(1e3 * value, 1) for kind, value in seconds.items()}}
        row |= {"speedup": {k: round(v / seconds["qtx"], 2) for k, v in seconds.items() if k != "qtx"}}
        if chip is not None:
            row |= {
                "utilization": round(step_flops(module, batch) / seconds["qtx"] / chip.peak_flops(options.dtype), 3)
            }
        result["shapes"][name] = row
        print(f"{name}: {json.dumps(row)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def random_batch(family: str, shape: dict[str, Any], batch_size: int) -> dict[str, np.ndarray]:
    """As qtx's data pipelines make them: every token of OPT's predicted, 15 % of BERT's."""
    rng = np.random.default_rng(0)
    if family == "vit":
        images = rng.standard_normal((batch_size, shape["image_size"], shape["image_size"], shape["channels"]))
        labels = rng.integers(0, shape["num_classes"], batch_size, dtype=np.int32)
        return {"images": images.astype(np.float32), "labels": labels, "weights": np.ones(labels.shape, np.float32)}
    length = shape["max_length"]
    tokens = rng.integers(10, shape["vocab_size"], (batch_size, length), dtype=np.int32)
    batch = {"tokens": tokens, "mask": np.ones(tokens.shape, bool)}
    count = num_predictions(0.15, length) if family == "bert" else length
    if family == "bert":
        rows = [np.sort(rng.choice(length, count, replace=False)) for _ in range(batch_size)]
        batch["positions"] = np.stack(rows).astype(np.int32)
    labels = rng.integers(10, shape["vocab_size"], (batch_size, count), dtype=np.int32)
    return batch | {"labels": labels, "weights": np.ones(labels.shape, np.float32)}


def model(family: str, shape: Mapping[str, Any]) -> Any:
    """A family's model of a shape, with dropout."""
    config = FAMILIES[family].config(**shape, dropout=DROPOUT, attention_dropout=DROPOUT)
    return build(config.trained_at(shape["max_length"]) if "max_length" in shape else config)


class Step:
    """One update of a state that it keeps."""

    def __init__(self, module: Any, batch: dict[str, np.ndarray]):
        mesh = make_mesh(MeshConfig(1))
        self._program = make_program(module, TRAINING, mesh, batch)
        self._state, self._batch = self._program.init(np.uint32(0)), shard_global_batch(mesh, batch)

    def __call__(self) -> Any:
        self._state, numbers = self._program.train_step(self._state, self._batch, np.uint32(0))
        return numbers

    def temporary_bytes(self) -> int:
        """What the compiled step needs beside the state and the batch."""
        train_step: Any = self._program.train_step
        return train_step.lower(self._state, self._batch, np.uint32(0)).compile().memory_analysis().temp_size_in_bytes


def torch_steps(
    family: str, shape: dict[str, Any], batch: dict[str, np.ndarray], compiled: bool
) -> dict[str, Callable[[], Any]]:
    """The same of transformers' model, and of timm's, of the same shape, on the device that JAX has."""
    import torch
    import transformers

    torch.set_num_threads(cpu_cores())
    device = torch.device("cuda" if jax.default_backend() == "gpu" else "cpu")
    half = shape["dtype"] == "bfloat16"
    common: dict[str, Any] = dict(num_hidden_layers=shape["num_layers"], hidden_size=shape["width"])
    common |= dict(num_attention_heads=shape["num_heads"])
    if family == "vit":
        config = transformers.ViTConfig(
            **common,
            intermediate_size=shape["mlp_width"],
            image_size=shape["image_size"],
            num_labels=shape["num_classes"],
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
        )
        make, labels = transformers.ViTForImageClassification, batch["labels"]
        inputs = {"pixel_values": batch["images"].transpose(0, 3, 1, 2)}
    elif family == "bert":
        config = transformers.BertConfig(
            **common,
            vocab_size=shape["vocab_size"],
            intermediate_size=shape["mlp_width"],
            max_position_embeddings=shape["max_length"],
        )
        make, inputs = transformers.BertForMaskedLM, {"input_ids": batch["tokens"].astype(np.int64)}
        labels = np.full(batch["tokens"].shape, -100)
        np.put_along_axis(labels, batch["positions"], batch["labels"], axis=1)
    else:
        config = transformers.OPTConfig(
            **common,
            vocab_size=shape["vocab_size"],
            ffn_dim=shape["mlp_width"],
            word_embed_proj_dim=shape["width"],
            max_position_embeddings=shape["max_length"],
            attention_dropout=DROPOUT,
        )
        make, inputs = transformers.OPTForCausalLM, {"input_ids": batch["tokens"].astype(np.int64)}
        labels = batch["tokens"]  # shifted by the model
    given = {name: torch.from_numpy(value.copy()).to(device) for name, value in inputs.items()}
    given["labels"] = torch.from_numpy(labels.astype(np.int64)).to(device)

    def stepper(model, loss_of):
        optimizer = torch.optim.AdamW(model.to(device, torch.float32).train().parameters(), lr=1e-4, weight_decay=0.01)

        def step():
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = loss_of()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return step

    def of_transformers(wrap, attention):
        model = make._from_config(config, attn_implementation=attention)
        forward = wrap(model)
        return stepper(model, lambda: forward(**given).loss)

    def of_timm():
        import timm

        model = timm.models.VisionTransformer(
            **dict(img_size=shape["image_size"], num_classes=shape["num_classes"], embed_dim=shape["width"]),
            **dict(depth=shape["num_layers"], num_heads=shape["num_heads"]),
            **dict.fromkeys(("pos_drop_rate", "proj_drop_rate", "attn_drop_rate"), DROPOUT),
        )
        of_logits = torch.nn.functional.cross_entropy
        return stepper(model, lambda: of_logits(model(given["pixel_values"]), given["labels"]))

    steps = {"torch_eager": of_transformers(lambda model: model, "sdpa")}
    steps["torch_naive"] = of_transformers(lambda model: model, "eager")
    if family == "vit":
        try:
            steps["timm_eager"] = of_timm()
        except ImportError as error:
            print(f"without timm: {error}", file=sys.stderr)
    if compiled:
        steps["torch_compile"] = of_transformers(torch.compile, "sdpa")
    return steps


def ratios(result: Mapping[str, Any]) -> dict[str, float]:
    """How many times as fast as each of PyTorch's qtx's step is."""
    return {
        f"{shape}, qtx / {kind}": value
        for shape, row in result["shapes"].items()
        for kind, value in row["speedup"].items()
    }


if __name__ == "__main__":
    main()
