"""Hugging Face checkpoint folders (config.json and model.safetensors) to qtx models and back."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from qtx.attention import AttentionConfig
from qtx.foundation.config import flattened, read_section
from qtx.foundation.errors import QtxError, lookup
from qtx.foundation.storage import Expected, read_json, read_safetensors, sealed_safetensors, write_whole
from qtx.interop.attention import attention_weights, with_gate
from qtx.interop.bert import BERT
from qtx.interop.checkpoint import Family
from qtx.interop.opt import OPT
from qtx.interop.vit import VIT
from qtx.interop.weights import Weight, export_weights, import_weights
from qtx.models import MODELS, TransformerConfig

# By config.json's model_type, which is also the name in qtx.models.MODELS.
FAMILIES: dict[str, Family] = {"bert": BERT, "opt": OPT, "vit": VIT}
CONFIG, WEIGHTS = "config.json", "model.safetensors"
EXPECTED = {
    CONFIG: Expected("a model's config", f"give a checkpoint folder with {CONFIG} and {WEIGHTS}"),
    WEIGHTS: Expected("a model's weights", "save the model there with transformers' save_pretrained(folder)"),
}
# Where we note the attention variant in config.json; transformers keeps unknown keys and ignores them.
ATTENTION_KEY = "qtx_attention"
# BERT's first published checkpoints have TensorFlow's names.
RENAMED = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}
# What a checkpoint does not tell: how to compute, not what.
COMPUTATION = ("dtype", "remat")


def load(folder: str | Path, attention: AttentionConfig | None = None) -> tuple[TransformerConfig, dict[str, Any]]:
    """A BertForMaskedLM, OPTForCausalLM or ViTForImageClassification checkpoint as a qtx model.

    The paper's gates are recognised by the names and shapes of their weights (those of its official code); any other
    attention of a checkpoint from elsewhere has to be told by `attention`.

    Args:
      folder: has config.json and model.safetensors.
      attention: the variant, whose gate may be left at None; None: as `save` noted it, or softmax.

    Returns:
      The model's config (`qtx.models.build` makes the module of it) and the parameter tree, float32 numpy arrays.

    Raises:
      QtxError: if a file is missing or broken, the model or one of its options is not supported, or weights are
        missing, unexpected, or of the wrong shape.
    """
    folder = Path(folder)
    values = read_json(folder / CONFIG, EXPECTED[CONFIG])
    if "model_type" not in values:
        raise QtxError(f"{folder / CONFIG} has no 'model_type': expected one of {', '.join(FAMILIES)}")
    family = lookup(FAMILIES, f"model_type in {folder / CONFIG}:", str(values["model_type"]))
    source = str(folder / WEIGHTS)
    tensors = _own_tensors(family, read_safetensors(folder / WEIGHTS, EXPECTED[WEIGHTS]), source)
    fields = family.read_config(values, str(folder / CONFIG)) | family.shown_by_weights(tensors)
    _, config_class = MODELS[values["model_type"]]
    try:
        if attention is None:
            noted = values.get(ATTENTION_KEY, {})
            if not isinstance(noted, dict):
                raise QtxError(f"{ATTENTION_KEY} is {noted!r}: expected options of the attention")
            attention = read_section(AttentionConfig, noted, "config.model.attention")
        fields["attention"] = with_gate(attention, tensors, family.attention_prefix)
        config = read_section(config_class, fields, "config.model")
        shapes = _shapes(config)
    except QtxError as error:
        raise QtxError(f"{folder}: {error}") from None
    except (ArithmeticError, MemoryError, TypeError, ValueError) as error:  # sizes that no array has
        raise EXPECTED[CONFIG].refusal(folder / CONFIG, error) from None
    return config, import_weights(_table(family, config), tensors, shapes, _sizes(config), source)


def save(folder: str | Path, config: TransformerConfig, params: Any) -> None:
    """Writes config.json and model.safetensors, whole or not at all; `transformers` loads them if the attention is the
    plain softmax kind.

    Args:
      folder: is made if it does not exist.
      config: of the model; what the data fills in (e.g. vocab_size) is filled in.
      params: the parameter tree, boxed or not.

    Raises:
      QtxError: if the architecture cannot express the config.
    """
    name = next(name for name, (_, config_class) in MODELS.items() if type(config) is config_class)
    family = lookup(FAMILIES, "family with Hugging Face checkpoints:", name)
    values = {"model_type": name, **family.write_config(config)}
    # What transformers has no option for, such as another LayerNorm epsilon in OPT, would be lost silently.
    given, default = vars(config), type(config)()
    for field in given.keys() - set(family.fields.values()) - {*COMPUTATION, "attention", *family.shown_by_weights({})}:
        if given[field] != getattr(default, field):
            raise QtxError(
                f"{field} is {given[field]!r}: {family.architecture} supports only {getattr(default, field)!r}"
            )
    if config.attention != AttentionConfig():
        values[ATTENTION_KEY] = {k: v for k, v in flattened(config.attention).items() if v is not None}
    folder = Path(folder)
    tensors = export_weights(_table(family, config), nn.unbox(params), _sizes(config))
    text = json.dumps(values, indent=2) + "\n"
    write_whole({folder / WEIGHTS: sealed_safetensors(tensors, format="pt"), folder / CONFIG: text.encode()})


def _table(family: Family, config: Any) -> list[Weight]:
    return [*family.weights(config), *attention_weights(config.attention, family.attention_prefix)]


def _sizes(config: TransformerConfig) -> dict[str, int]:
    return {"layer": config.num_layers, "head": config.num_heads}


# Tracing takes longer than reading a small checkpoint; those of one experiment are of one config.
@functools.lru_cache(maxsize=8)
def _shapes(config: Any) -> Any:
    name, module_class = next((name, module) for name, (module, cls) in MODELS.items() if type(config) is cls)
    variables = jax.eval_shape(module_class(config).init, jax.random.key(0), FAMILIES[name].example(config))
    return nn.unbox(variables["params"])


def _own_tensors(family: Family, tensors: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Under today's names, without the copies of tied weights and the unused ones."""
    for old, new in RENAMED.items():
        tensors = {name.removesuffix(old) + new if name.endswith(old) else name: x for name, x in tensors.items()}
    for copy, original in family.tied.items():
        if copy in tensors and original in tensors and not np.array_equal(tensors[copy], tensors[original]):
            raise QtxError(f"{source}: {copy} differs from {original}; qtx's {family.architecture} ties them")
    return {k: v for k, v in tensors.items() if k not in family.tied and not k.startswith(family.unused)}
