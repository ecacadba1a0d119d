"""A kind of checkpoint as a user of qtx would add it: one table, in a file of their own, and a place in its family.

Its tensors are made of a BertForMaskedLM's by NumPy alone: one linear layer for queries, keys and values, and a table
of positions whose first two rows belong to no position.
"""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qtx.attention import VARIANTS
from qtx.families import FAMILIES
from qtx.families.checkpoint import Checkpoint, Field
from qtx.families.checkpoints.bert import CHECKPOINT as BERT
from qtx.families.weights import Weight, dense_weights, layer_norm_weights, packed_weights
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from tests.interop.kinds import HEADS, KINDS, LAYERS, LENGTH, MLP, VOCABULARY, WIDTH
from tests.interop.test_kinds import assert_same_bits

BLOCK = "packed.blocks.{layer}"
OFFSET = 2


def weights(config):
    thirds = {f"layers/attention/{third}": config.width for third in ("query", "key", "value")}
    return [
        Weight("packed.words", "embeddings/words/embedding"),
        Weight("packed.positions", "embeddings/positions/embedding", begin=OFFSET, axis=0),
        Weight("packed.types", "embeddings/token_types/embedding"),
        *layer_norm_weights("packed.norm", "embeddings/norm"),
        *packed_weights(f"{BLOCK}.qkv", thirds),
        *dense_weights(f"{BLOCK}.out", "layers/attention/out"),
        *layer_norm_weights(f"{BLOCK}.norm1", "layers/attention_norm"),
        *dense_weights(f"{BLOCK}.up", "layers/mlp/in"),
        *dense_weights(f"{BLOCK}.down", "layers/mlp/out"),
        *layer_norm_weights(f"{BLOCK}.norm2", "layers/mlp_norm"),
        *dense_weights("lm_head.dense", "head/transform"),
        *layer_norm_weights("lm_head.norm", "head/norm"),
        Weight("lm_head.bias", "head/bias"),
    ]


PACKED = Checkpoint(
    model_types={"packed": "Packed", "packed-xl": "PackedXL"},
    architectures={"ForMaskedLM": {"head": "mlm"}},
    fields={
        "n_words": Field("vocab_size"),
        "dim": Field("width"),
        "n_blocks": Field("num_layers"),
        "n_heads": Field("num_heads"),
        "up_dim": Field("mlp_width"),
        "n_positions": Field("max_length", read=lambda rows: rows - OFFSET, write=lambda length: length + OFFSET),
        "n_types": Field("type_vocab_size", 2),
        "keep_prob": Field("dropout", 1.0, lambda kept: 1 - kept, lambda rate: 1 - rate),
        "act": Field("activation", "GELU", str.lower, str.upper),
    },
    supported={"causal": False},
    attention_prefix=f"{BLOCK}.attention",
    weights=weights,
    fixed={"layer_norm_epsilon": 2.0**-10},
    prefix="packed.",
)
CONFIG = {
    "model_type": "packed",
    "architectures": ["PackedForMaskedLM"],
    "n_words": VOCABULARY,
    "dim": WIDTH,
    "n_blocks": LAYERS,
    "n_heads": HEADS,
    "up_dim": MLP,
    "n_positions": LENGTH + OFFSET,
    "keep_prob": 0.75,
    "act": "RELU",
    "made_by": "a stranger",
}
# What packed checkpoints have, by the names that a BertForMaskedLM has.
RENAMED = {
    "bert.embeddings.word_embeddings.weight": "packed.words",
    "bert.embeddings.token_type_embeddings.weight": "packed.types",
    "bert.embeddings.LayerNorm": "packed.norm",
    "cls.predictions.transform.dense": "lm_head.dense",
    "cls.predictions.transform.LayerNorm": "lm_head.norm",
    "cls.predictions.bias": "lm_head.bias",
    **{
        f"bert.encoder.layer.{i}.{theirs}": f"packed.blocks.{i}.{ours}"
        for i in range(LAYERS)
        for theirs, ours in {
            "attention.output.dense": "out",
            "attention.output.LayerNorm": "norm1",
            "intermediate.dense": "up",
            "output.dense": "down",
            "output.LayerNorm": "norm2",
        }.items()
    },
}


def packed(bert, first_rows):
    """The tensors of a BertForMaskedLM as a packed checkpoint has them."""
    tensors = {}
    for theirs, ours in RENAMED.items():
        tensors |= {ours + name.removeprefix(theirs): x for name, x in bert.items() if name.startswith(theirs)}
    for i in range(LAYERS):
        for kind in ("weight", "bias"):
            names = (f"bert.encoder.layer.{i}.attention.self.{third}.{kind}" for third in ("query", "key", "value"))
            tensors[f"packed.blocks.{i}.qkv.{kind}"] = np.concatenate([bert[name] for name in names])
    table = np.concatenate([first_rows, bert["bert.embeddings.position_embeddings.weight"]])
    return {**tensors, "packed.positions": table}


@pytest.fixture
def families(monkeypatch):
    monkeypatch.setitem(FAMILIES, "bert", dataclasses.replace(FAMILIES["bert"], checkpoints=(BERT, PACKED)))


@pytest.fixture
def bert():
    return dataclasses.replace(KINDS["BertForMaskedLM"], copies={})


def write(folder, tensors, **changes):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))


@pytest.mark.parametrize("model_type, name", [("packed", "PackedForMaskedLM"), ("packed-xl", "PackedXLForMaskedLM")])
def test_it_is_the_model_of_its_tensors_and_is_written_again_bit_for_bit(tmp_path, families, bert, model_type, name):
    rows = np.full((OFFSET, WIDTH), 7, np.float16)
    theirs = bert.tensors(np.float16)
    tensors, told = packed(theirs, rows), {"model_type": model_type, "architectures": [name]}
    write(tmp_path / "packed", tensors, **told)
    bert.write(tmp_path / "bert", np.float16)
    config, params = load(tmp_path / "packed")
    assert (config.max_length, config.dropout, config.activation, config.head) == (LENGTH, 0.25, "relu", "mlm")
    assert config.layer_norm_epsilon == 2.0**-10
    jax.tree.map(np.testing.assert_array_equal, params, load(tmp_path / "bert")[1])

    save(tmp_path / "again", config, params, original=tmp_path / "packed")
    assert_same_bits(load_file(tmp_path / "again/model.safetensors"), tensors)
    assert json.loads((tmp_path / "again/config.json").read_text()) == CONFIG | told

    config = dataclasses.replace(config, dropout=0.5)
    save(tmp_path / "more", config, jax.tree.map(lambda x: x + 1, params), original=tmp_path / "packed")
    changed = packed({name: x + np.float16(1) for name, x in theirs.items()}, rows)
    assert_same_bits(load_file(tmp_path / "more/model.safetensors"), changed)
    assert json.loads((tmp_path / "more/config.json").read_text()) == CONFIG | told | {"keep_prob": 0.5}
    assert load(tmp_path / "more")[0] == config


def test_a_model_without_an_original_is_written_as_the_first_kind_that_can_say_it(tmp_path, monkeypatch, bert):
    monkeypatch.setitem(FAMILIES, "bert", dataclasses.replace(FAMILIES["bert"], checkpoints=(PACKED, BERT)))
    tensors = packed(bert.tensors(), np.zeros((OFFSET, WIDTH), np.float32))
    write(tmp_path / "packed", tensors)
    config, params = load(tmp_path / "packed")
    save(tmp_path / "new", config, params)
    assert_same_bits(load_file(tmp_path / "new/model.safetensors"), tensors)
    told = json.loads((tmp_path / "new/config.json").read_text())
    assert told == {key: x for key, x in CONFIG.items() if key != "made_by"} | {"n_types": 2, "causal": False}
    # The packed kind has one epsilon.
    other = dataclasses.replace(config, layer_norm_epsilon=1e-3)
    save(tmp_path / "other", other, params)
    assert json.loads((tmp_path / "other/config.json").read_text())["model_type"] == "bert"
    assert load(tmp_path / "other")[0] == other
    monkeypatch.setitem(FAMILIES, "bert", dataclasses.replace(FAMILIES["bert"], checkpoints=(PACKED,)))
    with pytest.raises(QtxError, match="layer_norm_epsilon is 0.001: PackedForMaskedLM supports only 0.0009765625"):
        save(tmp_path / "refused", other, params)
    with pytest.raises(QtxError, match="its head is that of none of PackedForMaskedLM"):
        save(tmp_path / "refused", dataclasses.replace(config, head="none"), params)
    assert not (tmp_path / "refused").exists()


def test_what_is_wrong_is_told_by_the_names_of_the_table(tmp_path, families, bert):
    tensors = packed(bert.tensors(), np.zeros((OFFSET, WIDTH), np.float32))
    write(tmp_path / "packed", tensors)
    config, params = load(tmp_path / "packed")
    qkv = "packed.blocks.1.qkv.weight"
    cases = {
        "unknown model_type in .*: 'unpacked': did you mean 'packed'": (tensors, {"model_type": "unpacked"}),
        "expected one of PackedForMaskedLM": (tensors, {"architectures": ["PackedModel"]}),
        "causal is True; qtx's packed supports only False": (tensors, {"causal": True}),
        "has no 'dim', which a PackedForMaskedLM needs": (tensors, {"dim": None}),
        "n_positions is '8', which is no max_length": (tensors, {"n_positions": "8"}),
        r"packed.positions has shape \(8, 8\), but its config.json means \(9, 8\)": (tensors, {"n_positions": 9}),
        r"qkv.weight has shape \(16, 8\), but its config.json means \(24, 8\)": (
            tensors | {qkv: tensors[qkv][:16]},
            {},
        ),
        "lacks packed.blocks.1.qkv.weight": ({name: x for name, x in tensors.items() if name != qkv}, {}),
    }
    for number, (message, (changed, values)) in enumerate(cases.items()):
        write(tmp_path / str(number), changed, **values)
        with pytest.raises(QtxError, match=message) as error:
            load(tmp_path / str(number))
        assert "\n" not in str(error.value)
    params["head"]["temperature"] = np.ones(1, np.float32)
    with pytest.raises(QtxError, match="head/temperature: no name in a checkpoint is known for this"):
        save(tmp_path / "out", config, params, original=tmp_path / "packed")


def test_another_attention_leaves_it_as_the_kind_that_has_code_for_it(tmp_path, families, bert):
    write(tmp_path / "packed", packed(bert.tensors(), np.zeros((OFFSET, WIDTH), np.float32)))
    config, params = load(tmp_path / "packed")
    config = dataclasses.replace(config, attention=VARIANTS["softmax1"])
    with pytest.raises(QtxError, match="PackedForMaskedLM has no code for an attention .* as bert, .* have: leave"):
        save(tmp_path / "out", config, params, original=tmp_path / "packed")
    save(tmp_path / "out", config, params)
    assert (tmp_path / "out" / "modeling_qtx.py").is_file()
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "out"), (config, params))
