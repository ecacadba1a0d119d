"""This module takes the folder of a model of texts through PyTorch and ONNX into ONNX Runtime's int8, for `qtx.judge`.

The module imports what qtx itself does not need: torch, transformers, onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxscript  # noqa: F401  what torch.onnx exports with
import torch
import transformers
from onnxruntime.quantization import quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from qtx.data.prompts import read_prompts
from qtx.foundation.errors import QtxError
from qtx.interop.carried import MODULES
from qtx.interop.modeling import FILE as CODE
from qtx.interop.sentence import Modules, embeddings

HEADS = {
    "ForSequenceClassification": ("logits",),
    "ForTokenClassification": ("logits",),
    "ForQuestionAnswering": ("start_logits", "end_logits"),
}
"""The outputs that are asked for, by how a class's name ends; of other classes it is the last hidden states."""
CALIBRATION, HELD_OUT, FEWEST, LENGTH, BATCH = 64, 128, 64, 128, 8
VERSION = f"onnxruntime {onnxruntime.__version__}"


class Reader:
    """A `Reader` has batches for the calibrator, which asks for the next one until there is None."""

    def __init__(self, tokens: np.ndarray):
        self._batches = batches(tokens)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def batches(tokens: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Yields tokens `[N, T]` as inputs `[BATCH, T]` of an exported model; N is a multiple of BATCH."""
    for start in range(0, len(tokens), BATCH):
        yield {"input_ids": tokens[start : start + BATCH]}


def trusted(folder: Path) -> dict[str, bool]:
    """Returns the option of `transformers` by which a folder's code is run: where qtx wrote some, and nowhere else."""
    return {"trust_remote_code": (folder / CODE).is_file()}


def prompt_of(folder: Path) -> np.ndarray:
    """Returns the tokens of the prompt that the folder's model has before texts by default, int64 [n]."""
    texts, default = read_prompts(folder)
    if not default:
        return np.zeros(0, np.int64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **trusted(folder))
    return np.array(tokenizer(texts[default], add_special_tokens=False)["input_ids"], np.int64)


def cut(folder: Path, text: str, prompt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts texts from all over `text`, in random order, with [CLS], the tokens of the prompt, and [SEP].

    Returns:
      tokens `[CALIBRATION, LENGTH]`, and others to measure on, `[N, LENGTH]`: N is a multiple of BATCH, from FEWEST to
      HELD_OUT.

    Raises:
      QtxError: when there are not enough of them, or the folder's tokenizer is not that of an encoder.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **trusted(folder))
    ends = tokenizer.cls_token_id, tokenizer.sep_token_id
    if None in ends:
        raise QtxError(f"the tokenizer of {folder} has no [CLS] and [SEP]: expected an encoder's")
    ids = np.array(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
    inner, needed = LENGTH - len(ends) - len(prompt), CALIBRATION + FEWEST
    blocks = ids[: len(ids) // inner * inner].reshape(-1, inner)
    if len(blocks) < needed:
        raise QtxError(f"the text has {len(blocks)} blocks of {inner} tokens, expected {needed}: give a longer --text")
    taken = min(len(blocks) - len(blocks) % BATCH, CALIBRATION + HELD_OUT)
    blocks = np.random.default_rng(0).permutation(blocks)[:taken]
    blocks = np.concatenate([np.tile(prompt, (taken, 1)), blocks], axis=1)
    blocks = np.pad(blocks, ((0, 0), (1, 1)), constant_values=((0, 0), ends))
    return blocks[:CALIBRATION], blocks[CALIBRATION:]


def head_of(folder: Path) -> str:
    """Returns the one of `HEADS` that a folder's model has; empty: none, or none that counts, as in an encoder's."""
    config = transformers.AutoConfig.from_pretrained(folder, **trusted(folder))
    names = [] if (folder / MODULES).is_file() else config.architectures or []
    return next((head for head in HEADS for name in names if name.endswith(head)), "")


def export(folder: Path, file: Path, head: str) -> None:
    """Writes the model of `folder` in ONNX, from tokens `[BATCH, LENGTH]` to its last hidden states, or to the outputs
    of its head."""

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # In eager attention every product of matrices is a node of its own.
            options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", **trusted(folder)}
            self.model = getattr(transformers, f"AutoModel{head}").from_pretrained(folder, **options)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            given = self.model(input_ids=input_ids)
            outputs = [given[name] for name in HEADS.get(head, ("last_hidden_state",))]
            return outputs[0] if len(outputs) == 1 else torch.stack(outputs, -1)

    tokens = torch.zeros((BATCH, LENGTH), dtype=torch.int64)
    options: dict[str, Any] = {"dynamo": True, "verbose": False, "external_data": False}
    torch.onnx.export(Outputs().eval(), (tokens,), file, input_names=["input_ids"], **options)


def prepare(exported: Path, prepared: Path) -> None:
    """Writes the model of an ONNX file as the quantizer wants it."""
    quant_pre_process(exported, prepared, skip_symbolic_shape=True)


def quantize(prepared: Path, quantized: Path, calibration: np.ndarray, options: dict[str, Any]) -> None:
    """Writes the model of an ONNX file in int8: ranges from calibration tokens `[N, LENGTH]`, options of
    `quantize_static`."""
    quantize_static(prepared, quantized, Reader(calibration), **options)


def outputs(file: Path, tokens: np.ndarray) -> np.ndarray:
    """Computes what the model of an ONNX file makes of tokens `[N, LENGTH]`: `[N, ...]`."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, batch)[0] for batch in batches(tokens)])


def embed(hidden: np.ndarray, prompt: int, modules: Modules, folder: Path) -> np.ndarray:
    """Computes embeddings `[N, D]` of hidden states `[N, LENGTH, width]`, of whose tokens `prompt` follow the first;
    `folder` has the dense layers, if there are any."""
    counted = np.ones(hidden.shape[:2], bool)
    if prompt and not modules.include_prompt:
        counted[:, : 1 + prompt] = False
    return embeddings(hidden, counted, modules, folder)


def on_grids(file: Path) -> dict[str, dict[str, int]]:
    """Counts the tensors of a quantized model that are on grids: activations by the operator that makes them, constants
    by type."""
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
