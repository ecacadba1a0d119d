"""Writes the tables of this folder: names and shapes of published models' weights, from their configs alone.

    python tests/models/published/make.py

Needs `transformers` and torch; downloads nothing: the models are built on torch's meta device from the sizes in their
published config.json. Layers of a model are equal, so their weights are written once, with `{layer}` in the name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion


def opt(width: int, layers: int, heads: int, **options) -> transformers.PreTrainedModel:
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "ffn_dim": 4 * width}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**shape, **options))


def vit(width: int, heads: int) -> transformers.PreTrainedModel:
    shape = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width, "num_labels": 1000}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**shape))


# By the name of the config in configs/.
MODELS = {
    "bert_base": lambda: transformers.BertForMaskedLM(transformers.BertConfig()),  # bert-base-uncased
    "bert_6l": lambda: transformers.BertForMaskedLM(transformers.BertConfig(num_hidden_layers=6)),
    "opt_125m": lambda: opt(768, 12, 12),  # facebook/opt-125m
    "opt_350m": lambda: opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False),  # facebook/opt-350m
    "opt_1b3": lambda: opt(2048, 24, 32),  # facebook/opt-1.3b
    "vit_ti16": lambda: vit(192, 3),  # timm's vit_{tiny,small,base}_patch16_224
    "vit_s16": lambda: vit(384, 6),
    "vit_b16": lambda: vit(768, 12),
}


def table(model: transformers.PreTrainedModel) -> dict:
    """Parameters by their names in a checkpoint (tied ones once), and their number."""
    weights: dict[str, list[int]] = {}
    for name, parameter in sorted(revert_weight_conversion(model, dict(model.named_parameters())).items()):
        shape = list(parameter.shape)
        name = re.sub(r"\.(layers?)\.\d+\.", r".\1.{layer}.", name)
        assert weights.setdefault(name, shape) == shape, name
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": model.config.num_hidden_layers,
        "weights": weights,
    }


if __name__ == "__main__":
    for name, make in MODELS.items():
        with torch.device("meta"):
            text = json.dumps(table(make()), indent=1)
        # A shape on one line.
        text = re.sub(r"\[\s+(\d[\d,\s]*?)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)
        Path(__file__).with_name(f"{name}.json").write_text(text + "\n")
