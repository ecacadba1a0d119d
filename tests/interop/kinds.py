"""Every kind of checkpoint that people have, as tensors and config.json, made without the code that reads them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

LAYERS, WIDTH, HEADS, MLP = 2, 8, 2, 12
VOCABULARY, LENGTH, CLASSES = 11, 6, 3
Shapes = dict[str, tuple[int, ...]]


def linear(name: str, size_in: int, size_out: int) -> Shapes:
    return {f"{name}.weight": (size_out, size_in), f"{name}.bias": (size_out,)}


def norm(name: str, weight: str = "weight", bias: str = "bias") -> Shapes:
    return {f"{name}.{weight}": (WIDTH,), f"{name}.{bias}": (WIDTH,)}


def bert_encoder(prefix: str, weight: str = "weight", bias: str = "bias") -> Shapes:
    shapes = {
        f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        f"{prefix}embeddings.position_embeddings.weight": (LENGTH, WIDTH),
        f"{prefix}embeddings.token_type_embeddings.weight": (2, WIDTH),
        **norm(f"{prefix}embeddings.LayerNorm", weight, bias),
    }
    for layer in (f"{prefix}encoder.layer.{i}" for i in range(LAYERS)):
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= linear(f"{layer}.{name}", WIDTH, WIDTH)
        shapes |= norm(f"{layer}.attention.output.LayerNorm", weight, bias)
        shapes |= linear(f"{layer}.intermediate.dense", WIDTH, MLP) | linear(f"{layer}.output.dense", MLP, WIDTH)
        shapes |= norm(f"{layer}.output.LayerNorm", weight, bias)
    return shapes


def mlm_head(weight: str = "weight", bias: str = "bias") -> Shapes:
    head = "cls.predictions.transform"
    return (
        linear(f"{head}.dense", WIDTH, WIDTH)
        | norm(f"{head}.LayerNorm", weight, bias)
        | {"cls.predictions.bias": (VOCABULARY,)}
    )


BERT = {
    "model_type": "bert",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
    "max_position_embeddings": LENGTH,
    "transformers_version": "4.8.2",
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Attributes:
      config: config.json.
      shapes: of the floating-point tensors, by name.
      fields: of qtx's config that tell this kind from others.
      copies: of tied tensors: the copy's name to the original's.
      others: names to tensors that are no weights.
    """

    config: dict[str, Any]
    shapes: Shapes
    fields: dict[str, Any]
    copies: dict[str, str] = dataclasses.field(default_factory=dict)
    others: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def tensors(self, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        """Random, no two alike."""
        rng = np.random.default_rng(0)
        tensors = {name: rng.normal(size=shape).astype(dtype) for name, shape in self.shapes.items()}
        return tensors | {copy: tensors[name] for copy, name in self.copies.items()} | self.others

    def write(self, folder: Path, dtype: Any = np.float32) -> dict[str, np.ndarray]:
        """Writes the folder; returns its tensors."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors(dtype)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.config))
        return tensors


def architectures(config: dict[str, Any], *names: str) -> dict[str, Any]:
    return config | {"architectures": list(names)}


POSITION_IDS = np.arange(LENGTH)[None]
DECODER = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
KINDS: dict[str, Kind] = {
    "BertModel": Kind(
        architectures(BERT, "BertModel"),
        bert_encoder("") | linear("pooler.dense", WIDTH, WIDTH),
        {"head": "none"},
        others={"embeddings.position_ids": POSITION_IDS},
    ),
    "BertModel, with the prefix": Kind(architectures(BERT, "BertModel"), bert_encoder("bert."), {"head": "none"}),
    "BertModel, architecture untold": Kind(BERT, bert_encoder(""), {"head": "none"}),
    "BertForMaskedLM": Kind(
        architectures(BERT, "BertForMaskedLM"), bert_encoder("bert.") | mlm_head(), {"head": "mlm"}, DECODER
    ),
    "BertForMaskedLM, architecture untold": Kind(BERT, bert_encoder("bert.") | mlm_head(), {"head": "mlm"}),
    "BertForPreTraining, of TensorFlow": Kind(
        architectures(BERT, "BertForPreTraining"),
        bert_encoder("bert.", "gamma", "beta")
        | mlm_head("gamma", "beta")
        | linear("bert.pooler.dense", WIDTH, WIDTH)
        | linear("cls.seq_relationship", WIDTH, 2),
        {"head": "mlm"},
    ),
    "BertForSequenceClassification": Kind(
        architectures(BERT, "BertForSequenceClassification") | {"classifier_dropout": None, "id2label": {"0": "bad"}},
        bert_encoder("bert.") | linear("bert.pooler.dense", WIDTH, WIDTH) | linear("classifier", WIDTH, CLASSES),
        {"head": "classification", "num_classes": CLASSES},
        others={"bert.embeddings.position_ids": POSITION_IDS},
    ),
}
