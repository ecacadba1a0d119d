"""Decoders that embed texts, such as Qwen3-Embedding: a language model beside sentence-transformers' modules."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from qtx.families import build
from qtx.interop import load, save
from tests.interop.kinds import KINDS, WIDTH
from tests.interop.test_kinds import assert_same_bits

LIBRARY = "sentence_transformers.models"


def modules(folder):
    (folder / "1_Pooling").mkdir()
    names = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"{LIBRARY}.{name}"}
        for i, (name, path) in enumerate(names.items())
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    others = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False}
    pooling = {"word_embedding_dimension": WIDTH, **others, "pooling_mode_lasttoken": True, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("name", ["Qwen3ForCausalLM", "LlamaForCausalLM"])
def test_the_class_of_the_language_model_is_kept_and_its_head_is_not_read(tmp_path, name):
    """The published folders keep the class ForCausalLM; an untied head is given back as it was."""
    tensors = KINDS[name].write(tmp_path / "original")
    modules(tmp_path / "original")
    config, params = load(tmp_path / "original")
    assert (config.head, config.pooling, config.normalize) == ("none", "lasttoken", True)
    assert "head" not in params
    hidden = build(config).apply({"params": params}, {"tokens": np.array([[3, 4, 5]])})
    assert hidden.shape == (1, 3, WIDTH)
    save(tmp_path / "again", config, params, original=tmp_path / "original")
    assert_same_bits(load_file(tmp_path / "again/model.safetensors"), tensors)
    assert json.loads((tmp_path / "again/config.json").read_text()) == KINDS[name].config
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "again"), (config, params))
