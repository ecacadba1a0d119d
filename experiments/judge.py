"""An independent judge: exported encoders in somebody else's int8, by ONNX Runtime's quantizer instead of qtx's.

    pip install onnx onnxruntime onnxscript
    python -m experiments.judge runs/minilm-2l/export/huggingface runs/healed/export/huggingface

Each folder is loaded by `transformers` (code that it brings is run), exported to ONNX by `torch.onnx`, and quantized by
`quantize_static` with its defaults: activations (asymmetric) and weights (symmetric) on static int8 grids, their ranges
from minimum to maximum over 64 calibration texts; the inputs and outputs of every operator that it knows, sums and
norms of the residual stream included. Weights get one grid per tensor or, in a second line, per channel. The int8
model runs on integers wherever ONNX Runtime has kernels for them.

Of 128 other texts, all of 128 tokens with the first folder's default prompt, each line has the mean cosine of the
embeddings (of the last hidden states, as the first folder's modules say, dense layers in floating point, or else their
mean): int8 to the same model's floating point, and both to the first folder's floating point; and, as `centred`, the
cosine of int8's to the same model's in floating point over all texts together, without the mean over the texts, for
embeddings that all point one way have a cosine near 1 to anything that does. It also counts what is on grids:
activations by the operator that makes them, constants (weights, biases, gains) by type.
"""

from __future__ import annotations

import argparse
import collections
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bad_input import told_in_a_line
from qtx.data.prompts import read_prompts
from qtx.data.reading import read_text
from qtx.data.sources.stdlib import HELD_OUT_FRACTION, split_stdlib
from qtx.foundation.errors import QtxError
from qtx.foundation.numbers import fixed
from qtx.interop.carried import MODULES
from qtx.interop.sentence import Modules, embeddings, read_modules

MISSING = ""
try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  what torch.onnx exports with
    import torch
    import transformers
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
except ImportError as error:
    MISSING = str(error)

CALIBRATION, HELD_OUT, LENGTH, BATCH = 64, 128, 128, 8
WEIGHTS: dict[str, dict[str, Any]] = {"per tensor": {}, "per channel": {"per_channel": True}}


class Reader:
    """Batches for the calibrator, which asks for the next one until there is None."""

    def __init__(self, tokens: np.ndarray):
        self._batches = batches(tokens)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def batches(tokens: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Tokens `[N, T]` as inputs `[BATCH, T]` of an exported model; N is a multiple of BATCH."""
    for start in range(0, len(tokens), BATCH):
        yield {"input_ids": tokens[start : start + BATCH]}


def prompt_of(folder: Path) -> np.ndarray:
    """The tokens of the prompt that the folder's model has before texts by default, int64 [n]."""
    texts, default = read_prompts(folder)
    if not default:
        return np.zeros(0, np.int64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    return np.array(tokenizer(texts[default], add_special_tokens=False)["input_ids"], np.int64)


def cut(folder: Path, text: str, prompt: np.ndarray) -> np.ndarray:
    """Texts from all over `text`, in random order: tokens `[CALIBRATION + HELD_OUT, LENGTH]` with [CLS], those of the
    prompt, and [SEP].

    Raises:
      QtxError: when there are not enough of them, or the folder's tokenizer is not that of an encoder.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    ends = tokenizer.cls_token_id, tokenizer.sep_token_id
    if None in ends:
        raise QtxError(f"the tokenizer of {folder} has no [CLS] and [SEP]: expected an encoder's")
    ids = np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
    inner, needed = LENGTH - len(ends) - len(prompt), CALIBRATION + HELD_OUT
    blocks = ids[: len(ids) // inner * inner].reshape(-1, inner)
    if len(blocks) < needed:
        raise QtxError(f"the text has {len(blocks)} blocks of {inner} tokens, expected {needed}: give a longer --text")
    blocks = np.random.default_rng(0).permutation(blocks)[:needed]
    blocks = np.concatenate([np.tile(prompt, (needed, 1)), blocks], axis=1)
    return np.pad(blocks, ((0, 0), (1, 1)), constant_values=((0, 0), ends))


def export(folder: Path, file: Path) -> None:
    """Writes the encoder of `folder` in ONNX, from tokens `[BATCH, LENGTH]` to its last hidden states."""

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            # In eager attention every product of matrices is a node of its own.
            options = {"dtype": torch.float32, "attn_implementation": "eager", "trust_remote_code": True}
            self.encoder = transformers.AutoModel.from_pretrained(folder, **options)

        def forward(self, input_ids):
            return self.encoder(input_ids=input_ids).last_hidden_state

    tokens = torch.zeros((BATCH, LENGTH), dtype=torch.int64)
    options = {"dynamo": True, "verbose": False, "external_data": False}
    torch.onnx.export(Hidden().eval(), (tokens,), file, input_names=["input_ids"], **options)


def embed(file: Path, tokens: np.ndarray, prompt: int, modules: Modules, folder: Path) -> np.ndarray:
    """Embeddings `[N, D]` of tokens `[N, LENGTH]`, of which `prompt` follow the first, by the model of an ONNX file;
    `folder` has the dense layers, if there are any."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    hidden = np.concatenate([session.run(None, batch)[0] for batch in batches(tokens)])
    counted = np.ones(hidden.shape[:2], bool)
    if prompt and not modules.include_prompt:
        counted[:, : 1 + prompt] = False
    return embeddings(hidden, counted, modules, folder)


def on_grids(file: Path) -> dict[str, dict[str, int]]:
    """How many tensors of a quantized model are on grids: activations by the operator that makes them, constants by
    type."""
    graph = onnx.load(file).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    types = {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type).lower() for tensor in graph.initializer}
    activations = [makers[node.input[0]] for node in graph.node if node.op_type == "QuantizeLinear"]
    constants = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"} & types.keys()
    counts = {
        "activations": collections.Counter(activations),
        "constants": collections.Counter(types[x] for x in constants),
    }
    return {kind: dict(sorted(count.items())) for kind, count in counts.items()}


def mean_cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Of the rows of `x` to those of `y`, both `[N, D]`."""
    return float(((x * y).sum(1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))).mean())


def centred_cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Of all of `x` to all of `y`, both `[N, D]`, each without its mean over the rows; 0 of rows that are all the
    same."""
    x, y = (z - z.mean(axis=0) for z in (x, y))
    product = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float((x * y).sum()) / product if product else 0.0


def verdicts(folders: Sequence[Path], text: str) -> Iterator[dict[str, Any]]:
    """A line for each folder and granularity of the weights.

    Raises:
      QtxError: for a folder without a model or with another tokenizer than the first, or too short a text.
    """
    for folder in folders:
        if not (folder / "config.json").is_file():
            raise QtxError(f"{folder} has no config.json: expected a folder of `qtx export --format=huggingface`")
    prompt = prompt_of(folders[0])
    tokens = cut(folders[0], text, prompt)
    for folder in folders[1:]:
        if not np.array_equal(cut(folder, text, prompt), tokens):
            raise QtxError(f"{folder} has another tokenizer than {folders[0]}: judge them in commands of their own")
    modules = read_modules(folders[0]) if (folders[0] / MODULES).is_file() else Modules("mean", False)
    calibration, held_out = tokens[:CALIBRATION], tokens[CALIBRATION:]
    first = None
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            exported, prepared, quantized = (Path(scratch, f"{name}.onnx") for name in ("exported", "prepared", "int8"))
            export(folder, exported)
            quant_pre_process(exported, prepared, skip_symbolic_shape=True)
            own = embed(exported, held_out, len(prompt), modules, folder)
            first = own if first is None else first
            for weights, options in WEIGHTS.items():
                quantize_static(prepared, quantized, Reader(calibration), **options)
                int8 = embed(quantized, held_out, len(prompt), modules, folder)
                yield {
                    "folder": str(folder),
                    "weights": weights,
                    "int8_to_own_fp": float(fixed(mean_cosine(int8, own))),
                    "centred": float(fixed(centred_cosine(int8, own))),
                    "int8_to_first_fp": float(fixed(mean_cosine(int8, first))),
                    "fp_to_first_fp": float(fixed(mean_cosine(own, first))),
                    "on_grids": on_grids(quantized),
                    "quantizer": f"onnxruntime {onnxruntime.__version__}",
                }


@told_in_a_line("judge")
def main(arguments: list[str]) -> int:
    """Prints a JSON line per verdict; 2 for bad input, or a package that is not installed."""
    parser = argparse.ArgumentParser("experiments.judge", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="the original first")
    parser.add_argument("--text", help="a file of text; by default, the held-out documents of the built-in corpus")
    options = parser.parse_args(arguments)
    if MISSING:
        raise QtxError(f"{MISSING}: pip install torch transformers onnx onnxruntime onnxscript")
    held_out = split_stdlib(HELD_OUT_FRACTION)[1]
    text = read_text(options.text) if options.text else "\n\n".join(document.text for document in held_out)
    for verdict in verdicts(options.folders, text):
        print(json.dumps({"command": f"python -m experiments.judge {shlex.join(arguments)}", **verdict}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
