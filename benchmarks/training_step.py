"""Training steps of qtx and of transformers' PyTorch models, side by side: `python -m benchmarks.training_step`.

Forward, backward, clipping by the global norm and AdamW, with dropout 0.1, on random tokens; in one process, call by
call in turns, after some that do not count, in which memory still grows. Both compute what a user of each gets:
`BertForMaskedLM` runs its head at every position, qtx at the predicted ones alone. Needs torch and transformers beside
qtx. Pin it to one core, which both then use alone:

    taskset -c 0 python -m benchmarks.training_step --output=benchmarks/results/training_step.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing import interleaved
from qtx.cli.cpu_memory import keep_freed_memory
from qtx.data.masking import num_predictions
from qtx.families import FAMILIES, build
from qtx.training import MeshConfig, TrainingConfig
from qtx.training.program import make_program
from qtx.training.sharding import make_mesh, shard_global_batch

DROPOUT = 0.1
TINY = dict(num_layers=4, width=256, num_heads=4, mlp_width=1024, max_length=128, vocab_size=8192)
SIX_LAYERS = dict(num_layers=6, width=768, num_heads=12, mlp_width=3072, max_length=128, vocab_size=30522)
SHAPES = {
    "bert_tiny": ("bert", TINY, 32),
    "opt_tiny": ("opt", TINY, 32),
    "bert_6l": ("bert", SIX_LAYERS, 8),
    "opt_6l": ("opt", SIX_LAYERS, 8),
}
WARM_UP_STEPS = 6
TRAINING = TrainingConfig(steps=10**6, warmup_steps=0, learning_rate=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=SHAPES, help="default: all")
    parser.add_argument("--repeats", type=int, default=15, help="timed steps of each (default %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (takes minutes to compile)")
    parser.add_argument("--output", type=Path, help="put the numbers into this JSON file too")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does; PyTorch gains by it too
    result: dict[str, Any] = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)), "shapes": {}}
    if options.output and options.output.exists():  # of other shapes
        result["shapes"] = json.loads(options.output.read_text(encoding="utf-8"))["shapes"]
    for name in options.shapes:
        family, shape, batch_size = SHAPES[name]
        batch = random_batch(family, shape, batch_size)
        steps = {"qtx": qtx_step(family, shape, batch), **torch_steps(family, shape, batch, options.compile)}
        interleaved(steps, WARM_UP_STEPS)
        seconds = interleaved(steps, options.repeats)
        tokens = batch["tokens"].size
        row = {"batch": batch_size, "length": shape["max_length"]}
        row |= {"ms": {kind: round(1e3 * value, 1) for kind, value in seconds.items()}}
        row |= {"tokens_per_second": {kind: round(tokens / value) for kind, value in seconds.items()}}
        row |= {"speedup": {k: round(v / seconds["qtx"], 2) for k, v in seconds.items() if k != "qtx"}}
        result["shapes"][name] = row
        print(f"{name}: {json.dumps(row)}", flush=True)
        if options.output:
            options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def random_batch(family: str, shape: dict[str, int], batch_size: int) -> dict[str, np.ndarray]:
    """As qtx's data pipelines make them: every token of OPT's predicted, 15 % of BERT's."""
    rng, length = np.random.default_rng(0), shape["max_length"]
    tokens = rng.integers(10, shape["vocab_size"], (batch_size, length), dtype=np.int32)
    batch = {"tokens": tokens, "mask": np.ones(tokens.shape, bool)}
    count = num_predictions(0.15, length) if family == "bert" else length
    if family == "bert":
        rows = [np.sort(rng.choice(length, count, replace=False)) for _ in range(batch_size)]
        batch["positions"] = np.stack(rows).astype(np.int32)
    labels = rng.integers(10, shape["vocab_size"], (batch_size, count), dtype=np.int32)
    return batch | {"labels": labels, "weights": np.ones(labels.shape, np.float32)}


def qtx_step(family: str, shape: dict[str, int], batch: dict[str, np.ndarray]) -> Callable[[], Any]:
    """One update of a state that the function keeps."""
    module = build(FAMILIES[family].config(**shape, dropout=DROPOUT, attention_dropout=DROPOUT))
    mesh = make_mesh(MeshConfig(1))
    program = make_program(module, TRAINING, mesh, batch)
    state, on_device, seed = program.init(np.uint32(0)), shard_global_batch(mesh, batch), np.uint32(0)

    def step():
        nonlocal state
        state, numbers = program.train_step(state, on_device, seed)
        return numbers

    return step


def torch_steps(
    family: str, shape: dict[str, int], batch: dict[str, np.ndarray], compiled: bool
) -> dict[str, Callable[[], Any]]:
    """The same of transformers' model of the same shape."""
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokens = torch.from_numpy(batch["tokens"]).long()
    common: dict[str, Any] = dict(vocab_size=shape["vocab_size"], num_hidden_layers=shape["num_layers"])
    common |= dict(hidden_size=shape["width"], num_attention_heads=shape["num_heads"])
    if family == "bert":
        config = transformers.BertConfig(
            **common, intermediate_size=shape["mlp_width"], max_position_embeddings=shape["max_length"]
        )
        make = transformers.BertForMaskedLM
        labels = np.full(batch["tokens"].shape, -100)
        np.put_along_axis(labels, batch["positions"], batch["labels"], axis=1)
    else:
        config = transformers.OPTConfig(
            **common,
            ffn_dim=shape["mlp_width"],
            word_embed_proj_dim=shape["width"],
            max_position_embeddings=shape["max_length"],
            attention_dropout=DROPOUT,
        )
        make = transformers.OPTForCausalLM
        labels = batch["tokens"]  # shifted by the model
    targets = torch.from_numpy(labels).long()

    def stepper(wrap):
        model = make(config).train()
        forward = wrap(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

        def step():
            loss = forward(input_ids=tokens, labels=targets).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        return step

    steps = {"torch_eager": stepper(lambda model: model)}
    if compiled:
        steps["torch_compile"] = stepper(torch.compile)
    return steps


if __name__ == "__main__":
    main()
