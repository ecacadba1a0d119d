"""Checkpoint folders: round trips over the registries, and what a broken one is told."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file, save_file

from qtx.attention import VARIANTS, AttentionConfig
from qtx.attention.gates import MlpGate
from qtx.attention.normalizers import ClippedSoftmax
from qtx.families import FAMILIES, build
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.models import BertConfig, LlamaConfig, ModernBertConfig, OptConfig, RotaryBertConfig, VitConfig

SHAPE = {"num_layers": 2, "width": 8, "num_heads": 2, "mlp_width": 12}
CONFIGS = {
    "bert": BertConfig(**SHAPE, vocab_size=11, max_length=6),
    "modern_bert": ModernBertConfig(**SHAPE, vocab_size=11, max_length=6, local_distance=2),
    "rotary_bert": RotaryBertConfig(**SHAPE, vocab_size=11, max_length=6),
    "opt": OptConfig(**SHAPE, vocab_size=11, max_length=6),
    "llama": LlamaConfig(**SHAPE, vocab_size=11, max_length=6, num_kv_heads=1),
    "vit": VitConfig(**SHAPE, image_size=6, patch_size=2, channels=3, num_classes=5, patch_norm=True),
}


def saved(folder, config):
    """A checkpoint of random weights, no two alike."""
    variables = jax.eval_shape(build(config).init, jax.random.key(0), config.example())
    leaves, tree = jax.tree.flatten(nn.unbox(variables["params"]))
    rng = np.random.default_rng(0)
    params = jax.tree.unflatten(tree, [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    if isinstance(config, ModernBertConfig):  # whose first layer has no norm there
        params["layers"]["attention_norm"]["scale"][0] = 1
    save(folder, config, params)
    return params


def edit_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_every_family_has_a_table():
    assert {name for name, family in FAMILIES.items() if family.checkpoints} == CONFIGS.keys()


def test_a_sink_has_the_name_that_gpt_oss_gives_it(tmp_path):
    saved(tmp_path, dataclasses.replace(CONFIGS["opt"], attention=VARIANTS["sink"]))
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["model.decoder.layers.0.self_attn.sinks"].shape == (CONFIGS["opt"].num_heads,)


def test_a_parameter_without_a_name_is_refused_and_not_lost(tmp_path):
    config = CONFIGS["opt"]
    params = saved(tmp_path, config)
    params["layers"]["attention"]["temperature"] = np.ones((config.num_layers, 1), np.float32)
    with pytest.raises(QtxError, match="layers/attention/temperature: no name in a checkpoint is known"):
        save(tmp_path / "other", config, params)
    assert not (tmp_path / "other").exists()


@pytest.mark.representative("bert-gated_mlp", "opt-sink", "opt-softmax", "vit-clipped_softmax")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_load_gives_back_what_save_wrote(tmp_path, family, variant):
    config = dataclasses.replace(CONFIGS[family], attention=VARIANTS[variant].trained_at(8))
    if variant == "gated_mlp":
        attention = AttentionConfig(gate=MlpGate(pi=0.25, hidden=3))
        config = dataclasses.replace(config, attention=attention)
    params = saved(tmp_path, config)
    loaded_config, loaded = load(tmp_path)
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_load_gives_back_a_post_norm_opt_with_projections(tmp_path):
    config = dataclasses.replace(CONFIGS["opt"], pre_norm=False, embedding_width=4)
    params = saved(tmp_path, config)
    loaded_config, loaded = load(tmp_path)
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    assert loaded["embeddings"]["words"]["embedding"].shape == (11, 4) and "final_norm" not in loaded


@pytest.mark.parametrize("options", [{"head": "none"}, {"head": "classification", "num_classes": 3}])
def test_load_gives_back_a_bert_with_another_head_or_none(tmp_path, options):
    config = dataclasses.replace(CONFIGS["bert"], **options)
    params = saved(tmp_path, config)
    loaded_config, loaded = load(tmp_path)
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    bare = "embeddings.word_embeddings.weight" in load_file(tmp_path / "model.safetensors")
    assert bare == (config.head == "none")


def test_weights_are_float32_whatever_the_file_has(tmp_path):
    saved(tmp_path, CONFIGS["opt"])
    edit_weights(tmp_path, lambda tensors: tensors.update({k: v.astype(np.float16) for k, v in tensors.items()}))
    _, params = load(tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}


def test_published_bert_names_and_extra_heads_are_understood(tmp_path):
    params = saved(tmp_path, CONFIGS["bert"])

    def as_published(tensors):
        for name in [name for name in tensors if ".LayerNorm." in name]:
            new = name.replace(".LayerNorm.weight", ".LayerNorm.gamma").replace(".LayerNorm.bias", ".LayerNorm.beta")
            tensors[new] = tensors.pop(name)
        tensors["bert.pooler.dense.weight"] = np.zeros((8, 8), np.float32)
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]

    edit_weights(tmp_path, as_published)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path)[1], params)


def test_a_gate_is_recognised_by_its_weights_and_the_normalizer_is_the_callers(tmp_path):
    attention = AttentionConfig(gate=MlpGate(hidden=3))
    saved(tmp_path, dataclasses.replace(CONFIGS["bert"], attention=attention))
    edit_config(tmp_path, qtx_attention={})
    assert load(tmp_path)[0].attention == attention
    clipped = load(tmp_path, AttentionConfig(ClippedSoftmax(gamma=-0.1)))[0].attention
    assert clipped == AttentionConfig(ClippedSoftmax(gamma=-0.1), MlpGate(hidden=3))


def remove(name):
    return lambda folder: (folder / name).unlink()


def weights(change):
    return lambda folder: edit_weights(folder, change)


def values(**changes):
    return lambda folder: edit_config(folder, **changes)


def without(key):
    def damage(folder):
        kept = json.loads((folder / "config.json").read_text())
        del kept[key]
        (folder / "config.json").write_text(json.dumps(kept))

    return damage


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def flipped(name):
    def damage(folder):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return damage


FC = "model.decoder.layers.1.fc1.bias"
BROKEN = {
    "no config": ("bert", remove("config.json"), "there is no file .*config.json, .*: give a checkpoint folder"),
    "no weights": (
        "bert",
        remove("model.safetensors"),
        "there is no file .*: save the model there",
    ),
    "config not JSON": ("bert", text("config.json", "{"), "not JSON"),
    "config not an object": ("bert", text("config.json", "[]"), "not a JSON object"),
    "weights not safetensors": ("bert", text("model.safetensors", "torch?"), "not a whole safetensors file"),
    "no model type": (
        "bert",
        text("config.json", "{}"),
        "no 'model_type': expected one of bert, .*; and no 'arch",
    ),
    "unknown model": ("bert", values(model_type="berts"), "unknown model_type.*'berts': did you mean 'bert'"),
    "another model": ("bert", values(model_type="opt"), "has no 'ffn_dim'"),
    "missing weight": ("opt", weights(lambda t: t.pop(FC)), "lacks .*layers.1.fc1.bias"),
    "NaN": (
        "opt",
        weights(lambda t: t.update({FC: np.full_like(t[FC], np.nan)})),
        "layers.1.fc1.bias has values that are NaN",
    ),
    "unexpected weight": ("opt", weights(lambda t: t.update(extra=np.zeros(1))), "has unexpected extra"),
    "fewer layers": ("vit", values(num_hidden_layers=1), r"has unexpected vit.encoder.layer.1.* and 12 more"),
    "wrong shape": ("vit", values(intermediate_size=13), r"intermediate.dense.weight has shape \(12, 8\).*\(13, 8\)"),
    "untied": (
        "opt",
        weights(lambda t: t.update({"lm_head.weight": np.zeros((11, 8), np.float32)})),
        "lm_head.weight differs from model.decoder.embed_tokens.weight",
    ),
    "activation": ("bert", values(hidden_act="mish"), "unknown activation 'mish'"),
    "post-LN OPT": ("opt", values(do_layer_norm_before=False), "has unexpected model.decoder.final_layer_norm.bias"),
    "projected OPT": ("opt", values(word_embed_proj_dim=4), "lacks model.decoder.project_in.weight"),
    "missing size": ("bert", without("hidden_size"), "has no 'hidden_size'"),
    "wrong type": ("bert", values(hidden_size="8"), "width is '8': expected int"),
    "attention not options": ("bert", values(qtx_attention="softmax"), "expected options of the attention"),
    "layers without end": (
        "bert",
        values(num_hidden_layers=10**9),
        "has 42 weights, but its config.json means 16,000,000,010",
    ),
    "more than any memory": ("bert", values(vocab_size=10**30), "is not a model's config"),
    "large images": ("vit", values(image_size=6 * 10**5), "position_embeddings has shape"),
    "larger images": ("vit", values(image_size=6 * 10**12), "is not a model's config"),
    "edited weights": ("bert", flipped("model.safetensors"), "checksum does not fit its content"),
    "heads": ("bert", values(num_attention_heads=3), "width 8 is not divisible by num_heads 3"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_gets_one_line(tmp_path, case):
    family, damage, message = BROKEN[case]
    saved(tmp_path, CONFIGS[family])
    damage(tmp_path)
    with pytest.raises(QtxError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_gate_that_the_weights_contradict_is_refused(tmp_path):
    saved(tmp_path, dataclasses.replace(CONFIGS["bert"], attention=VARIANTS["gated_linear"]))
    with pytest.raises(QtxError, match="gate 'mlp' is asked for, but the weights show 'linear'"):
        load(tmp_path, VARIANTS["gated_mlp"])


def test_save_refuses_what_the_architecture_cannot_say(tmp_path):
    scaled = RotaryBertConfig(num_layers=1, vocab_size=9, type_vocab_size=1, activation="gelu", rotary_factor=2.0)
    with pytest.raises(QtxError, match="rotary_factor is 2.0: GteModel supports only 1.0"):
        save(tmp_path, dataclasses.replace(scaled, head="none", attention_bias=True, mlp_out_bias=True), {})
    other = dataclasses.replace(CONFIGS["opt"], layer_norm_epsilon=1e-3, pre_norm=False)
    with pytest.raises(QtxError, match="epsilon is 0.001: OPTForCausalLM supports only 1e-05; pre_norm is False: GPT2"):
        saved(tmp_path, other)
