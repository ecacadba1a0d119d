"""The file of code of an exported checkpoint: what `transformers` computes by it is what qtx computes."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import re
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.attention import GATES, NORMALIZERS, VARIANTS, AttentionConfig, attention_variant
from qtx.attention.gates import DenseGate, LinearGate
from qtx.attention.normalizers import Softmax
from qtx.attention.parameters import Parameter
from qtx.families import build
from qtx.families.kinds import kind_for
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.interop.modeling import modeling
from qtx.models import BertConfig, LlamaConfig, ModernBertConfig, OptConfig, RotaryBertConfig, VitConfig
from tests.interop.kinds import KINDS
from tests.mechanisms import MECHANISMS
from tests.strangers import documented

try:
    import torch
    import transformers
    from transformers import dynamic_module_utils
except ImportError:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="needs torch and transformers (pip install qtx[hf])")

SHAPE = {"num_layers": 2, "width": 12, "num_heads": 3, "mlp_width": 16, "dropout": 0.2, "attention_dropout": 0.2}
CONFIGS = {
    "bert": BertConfig(**SHAPE, vocab_size=23, max_length=9),
    "opt": OptConfig(**SHAPE, vocab_size=23, max_length=9),
    "vit": VitConfig(**SHAPE, image_size=6, patch_size=2, channels=3, num_classes=5),
}
ROTARY = {**SHAPE, "vocab_size": 23, "max_length": 9}
CONFIGS |= {
    "gpt2": dataclasses.replace(CONFIGS["opt"], activation="gelu_new", layer_norm_epsilon=1e-6),
    "mpnet": dataclasses.replace(CONFIGS["bert"], type_vocab_size=0, relative_buckets=32),
    "nomic": RotaryBertConfig(**ROTARY),
    "gte": RotaryBertConfig(
        **ROTARY, activation="gelu", attention_bias=True, mlp_out_bias=True, rotary_base=160_000.0, type_vocab_size=0
    ),
    "modernbert": ModernBertConfig(**ROTARY | {"num_layers": 4}, local_distance=3),
    "llama": LlamaConfig(**ROTARY | {"dropout": 0.0}, num_kv_heads=1, tied=False),
    "mistral": LlamaConfig(**ROTARY | {"dropout": 0.0}, num_kv_heads=1, window=4, tied=False, head_dim=6),
    "qwen3": LlamaConfig(**ROTARY | {"dropout": 0.0}, num_kv_heads=1, head_dim=6, qk_norm=True),
    "bert encoder": dataclasses.replace(CONFIGS["bert"], head="none"),
    "bert classifier": dataclasses.replace(CONFIGS["bert"], head="classification", num_classes=4),
    "distilbert": dataclasses.replace(
        CONFIGS["bert"], type_vocab_size=0, pooler_activation="relu", head="multi_label", num_classes=4
    ),
    "electra": dataclasses.replace(CONFIGS["bert"], embedding_width=8, pooler_activation="gelu"),
    "albert": dataclasses.replace(CONFIGS["bert"], embedding_width=8, shared_layers=True),
}
AUTO = {
    **dict.fromkeys(("mpnet", "nomic", "gte", "modernbert"), "AutoModelForMaskedLM"),
    **dict.fromkeys(("llama", "mistral", "qwen3"), "AutoModelForCausalLM"),
    "bert": "AutoModelForMaskedLM",
    "bert encoder": "AutoModel",
    "bert classifier": "AutoModelForSequenceClassification",
    "distilbert": "AutoModelForSequenceClassification",
    "electra": "AutoModelForMaskedLM",
    "albert": "AutoModelForMaskedLM",
    **dict.fromkeys(("opt", "gpt2"), "AutoModelForCausalLM"),
    "vit": "AutoModelForImageClassification",
}
NOT_STOCK = [name for name in MECHANISMS if name != "softmax"]
# What options change, where it differs from family to family.
OPTIONS = {
    "a third of an empty key": ("opt", "sink,empty_weight=0.3", {}),
    "no empty key yet": ("bert", "softmax1,empty_weight=0.0", {}),
    "one gamma": ("bert", "clipped_softmax,alpha=None,gamma=-0.1,zeta=1.1", {}),
    "annealed": ("opt", "clipped_softmax,gamma_warmup_steps=100", {}),
    "keys of a row": ("opt", "clipped_softmax_visible,alpha_visible=1.5", {}),
    "hidden units": ("vit", "gated_mlp,gate_hidden=2", {}),
    "both": ("bert", "sink,gate=all_heads_linear", {}),
    **{
        f"{read} {place} {family} {gate}": (
            family,
            f"gated_{gate},gate_scale=2,gate_input={read},gate_place={place}",
            {},
        )
        for family, read, place, gate in (
            ("bert", "residual", "values", "linear"),
            ("opt", "residual", "context", "linear"),
            ("modernbert", "residual", "values", "linear"),
            ("gte", "normed", "values", "headwise"),
            ("opt", "residual", "values", "elementwise"),
            ("vit", "normed", "values", "headwise"),
            ("vit", "residual", "context", "elementwise"),
        )
    },
    "post-norm": ("opt", "gated_linear,gate_input=residual", {"pre_norm": False, "embedding_width": 4}),
    "normed patches": ("vit", "clipped_softmax", {"patch_norm": True}),
    "normed patches alone": ("vit", "softmax", {"patch_norm": True}),
}


def saved(folder, config, scale=0.5):
    """A checkpoint of random weights, no two alike: LayerNorms, biases, gates and sinks too."""
    variables = jax.eval_shape(build(config).init, jax.random.key(0), config.example())
    leaves, tree = jax.tree.flatten(nn.unbox(variables["params"]))
    rng = np.random.default_rng(0)
    params = jax.tree.unflatten(tree, [scale * rng.normal(size=x.shape).astype(np.float32) for x in leaves])
    save(folder, config, params)
    return params


def batch_of(config):
    """Theirs and ours: images, or texts without padding, padded on the right and on the left."""
    rng = np.random.default_rng(1)
    if config.reads == "images":
        images = rng.normal(size=(2, 6, 6, 3)).astype(np.float32)
        return {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}, {"images": images}
    tokens, mask = rng.integers(4, 23, (3, 9)).astype(np.int32), np.ones((3, 9), bool)
    mask[1, -3:] = mask[2, :2] = False
    theirs = {"input_ids": torch.from_numpy(tokens).long(), "attention_mask": torch.from_numpy(mask).long()}
    return theirs, {"tokens": tokens, "mask": mask}


@pytest.fixture
def in_torch(tmp_path, monkeypatch):
    """Loads a folder by an Auto class, code and all; every weight finds its place."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])

    def from_pretrained(folder, auto):
        model, info = getattr(transformers, auto).from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )
        missing = {name for name in info.pop("missing_keys") if not name.startswith("pooler.")}  # an encoder has none
        assert not missing and not any(info.values())
        return model.eval()

    return from_pretrained


def assert_equal_logits(model, config, params):
    theirs, ours = batch_of(config)
    expected, compared = np.asarray(jax.jit(build(config).apply)({"params": params}, ours)), ...
    if "GPT2" in type(model).__name__:  # it has to be told of positions, and padding has none
        theirs["position_ids"], compared = (theirs["attention_mask"].cumsum(1) - 1).clamp(min=0), ours["mask"]
    with torch.no_grad():
        found = model(**theirs)[0].numpy()
    np.testing.assert_allclose(found[compared], expected[compared], rtol=0, atol=1e-5 * np.abs(expected).max())


@needs_torch
@pytest.mark.representative(
    *("bert-*", "opt-clipped_softmax_visible", "vit-sink", "bert ?*-gated_mlp"),
    *("distilbert-clipped_softmax", "electra-gated_linear", "albert-*linear", "albert-sink"),
)
@pytest.mark.parametrize("variant", NOT_STOCK)
@pytest.mark.parametrize("family", CONFIGS)
def test_every_variant_is_the_same_in_pytorch(tmp_path, in_torch, family, variant):
    config = dataclasses.replace(CONFIGS[family], attention=MECHANISMS[variant])
    params = saved(tmp_path / "model", config)
    assert_equal_logits(in_torch(tmp_path / "model", AUTO[family]), config, params)


@needs_torch
@pytest.mark.representative("annealed", "residual*", "post-norm", "normed patches")
@pytest.mark.parametrize("case", OPTIONS)
def test_options_are_honoured(tmp_path, in_torch, case):
    family, variant, options = OPTIONS[case]
    config = dataclasses.replace(CONFIGS[family], attention=attention_variant(variant).trained_at(9), **options)
    params = saved(tmp_path / "model", config)
    assert_equal_logits(in_torch(tmp_path / "model", AUTO[family]), config, params)


@needs_torch
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_a_text_is_the_same_alone_and_padded(tmp_path, in_torch, family):
    """By alpha gamma is that of training, -2 / 6 here, whatever the length at hand."""
    config = dataclasses.replace(CONFIGS[family], attention=attention_variant("clipped_softmax,alpha=2,length=6"))
    saved(tmp_path / "model", config)
    assert f"gamma = {-2 / 6}" in (tmp_path / "model" / "modeling_qtx.py").read_text()
    assert json.loads((tmp_path / "model" / "config.json").read_text())["qtx_attention"]["length"] == 6
    model, tokens = in_torch(tmp_path / "model", AUTO[family]), torch.arange(4, 13)[None]
    with torch.no_grad():
        alone = model(input_ids=tokens[:, :4])[0].numpy()
        padded = model(input_ids=tokens, attention_mask=(torch.arange(9) < 4).long()[None])[0][:, :4].numpy()
    np.testing.assert_allclose(padded, alone, rtol=0, atol=1e-5 * np.abs(alone).max())
    if family == "opt":
        with torch.no_grad():
            followed = model(input_ids=tokens)[0][:, :4].numpy()
        np.testing.assert_allclose(followed, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


@needs_torch
@pytest.mark.parametrize("family", ["opt", "vit"])
def test_the_documented_lines_compute_what_the_documented_variants_do(tmp_path, in_torch, monkeypatch, family):
    temperature, diagonal = (documented("adding-a-variant.md")[name] for name in ("Temperature", "DiagonalGate"))
    monkeypatch.setitem(NORMALIZERS, "temperature", temperature)
    monkeypatch.setitem(GATES, "diagonal", diagonal)
    config = dataclasses.replace(CONFIGS[family], attention=AttentionConfig(temperature(), diagonal()))
    params = saved(tmp_path / "model", config)
    assert_equal_logits(in_torch(tmp_path / "model", AUTO[family]), config, params)


@needs_torch
@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "mistral", "qwen3"])
def test_text_goes_on_from_cached_keys_and_values(tmp_path, in_torch, family):
    """By visible keys, and with gated values in the cache: by -alpha / T a longer text would change what is cached."""
    attention = attention_variant("clipped_softmax_visible,gate=headwise,gate_place=values,gate_input=residual")
    config = dataclasses.replace(CONFIGS[family], attention=attention)
    saved(tmp_path / "model", config)
    model = in_torch(tmp_path / "model", AUTO[family])
    tokens = batch_of(config)[0]["input_ids"]
    with torch.no_grad():
        first = model(tokens[:, :5], use_cache=True)
        second = model(tokens[:, 5:], past_key_values=first.past_key_values).logits
        torch.testing.assert_close(second, model(tokens).logits[:, 5:])
    generated = model.generate(tokens[:1, :3], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert generated.shape == (1, 6)


@needs_torch
@pytest.mark.parametrize("family", ["bert", "opt", "vit", "albert"])
def test_what_pytorch_saved_is_still_the_model(tmp_path, in_torch, family):
    config = dataclasses.replace(CONFIGS[family], attention=attention_variant("sink,gate=linear"))
    params = saved(tmp_path / "model", config)
    in_torch(tmp_path / "model", AUTO[family]).save_pretrained(tmp_path / "again")
    assert_equal_logits(in_torch(tmp_path / "again", AUTO[family]), config, params)
    loaded_config, loaded = load(tmp_path / "again")
    assert loaded_config.resolved() == config
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


@needs_torch
def test_a_copy_has_a_gate_of_its_own(tmp_path, in_torch):
    config = dataclasses.replace(CONFIGS["vit"], attention=attention_variant("gated_headwise,gate_input=residual"))
    params = saved(tmp_path / "model", config)
    model = in_torch(tmp_path / "model", AUTO["vit"])
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate_predictor" in name:
                parameter.zero_()
    assert_equal_logits(copied, config, params)


@needs_torch
@pytest.mark.parametrize("family", ["bert", "opt", "vit"])
def test_a_stock_class_refuses_an_attention_that_it_does_not_have(tmp_path, family):
    saved(tmp_path, dataclasses.replace(CONFIGS[family], attention=VARIANTS["clipped_softmax"].trained_at(9)))
    with pytest.raises(ValueError, match=r"load with trust_remote_code=True"):
        getattr(transformers, AUTO[family]).from_pretrained(tmp_path)


@needs_torch
def test_another_attention_implementation_does_not_take_its_place(tmp_path, in_torch):
    config = dataclasses.replace(CONFIGS["opt"], attention=VARIANTS["sink"])
    params = saved(tmp_path / "model", config)
    model = in_torch(tmp_path / "model", AUTO["opt"])
    model.set_attn_implementation("sdpa")
    assert_equal_logits(model, config, params)
    with torch.no_grad():
        weights = model(**batch_of(config)[0], output_attentions=True).attentions
    assert len(weights) == config.num_layers and weights[0].sum(-1).max() < 1


@needs_torch
def test_a_model_made_of_a_checkpoint_keeps_what_pytorch_alone_has(tmp_path, in_torch):
    """The pooler, and the head for whether two sentences follow each other."""
    KINDS["BertForPreTraining, of TensorFlow"].write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    save(tmp_path / "model", dataclasses.replace(config, attention=VARIANTS["softmax1"]), params, tmp_path / "original")
    in_torch(tmp_path / "model", "AutoModelForPreTraining")
    save(tmp_path / "back", config, params, tmp_path / "model")
    assert json.loads((tmp_path / "back/config.json").read_text()) == KINDS["BertForPreTraining, of TensorFlow"].config


@needs_torch
def test_a_masked_language_model_becomes_a_classifier_with_its_gates(tmp_path, in_torch):
    config = dataclasses.replace(CONFIGS["bert"], attention=VARIANTS["gated_mlp"])
    saved(tmp_path / "model", config)
    model = in_torch(tmp_path / "model", AUTO["bert"])
    folder = {"pretrained_model_name_or_path": tmp_path / "model", "trust_remote_code": True}
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(**folder, num_labels=3).eval()
    theirs = batch_of(config)[0]
    with torch.no_grad():
        torch.testing.assert_close(classifier.bert(**theirs)[0], model.bert(**theirs)[0])
        assert classifier(**theirs).logits.shape == (3, 3)


@needs_torch
@pytest.mark.parametrize(
    "name, auto",
    [
        ("RobertaForMaskedLM", "AutoModelForMaskedLM"),
        ("XLMRobertaForSequenceClassification", "AutoModelForSequenceClassification"),
    ],
)
def test_another_kind_of_a_family_has_code_of_its_own_classes(tmp_path, in_torch, name, auto):
    KINDS[name].write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    config = dataclasses.replace(config, attention=VARIANTS["softmax1"])
    save(tmp_path / "model", config, params, tmp_path / "original")
    model, tokens = in_torch(tmp_path / "model", auto), np.arange(3, 9, dtype=np.int32)[None]
    assert type(model).__name__ == name
    expected = np.asarray(jax.jit(build(config).apply)({"params": params}, {"tokens": tokens}))
    with torch.no_grad():
        found = model(input_ids=torch.from_numpy(tokens).long())[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("variant", NOT_STOCK)
@pytest.mark.parametrize("family", CONFIGS)
def test_the_file_is_python_and_config_json_names_what_it_defines(family, variant):
    config = dataclasses.replace(CONFIGS[family], attention=MECHANISMS[variant])
    checkpoint = kind_for(config)
    values, files = modeling(checkpoint, config, checkpoint.write_config(config))
    text = files["modeling_qtx.py"].decode()
    compile(text, "modeling_qtx.py", "exec")
    assert max(map(len, text.splitlines())) <= 120
    defined = {f"modeling_qtx.{name}" for name in re.findall(r"^class (\w+)\(Qtx, ", text, re.MULTILINE)}
    assert set(values["auto_map"].values()) == defined and AUTO[family] in values["auto_map"]


@pytest.mark.parametrize("name", ["scaling", "dropout", "layer_idx", "normalize", "q_proj"])
def test_a_parameter_whose_name_is_taken_is_refused(name, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Named(Softmax):
        def parameters(self, num_heads):
            return {name: Parameter((num_heads,), 1.0)}

        def pytorch(self, own):
            return "return softmax(scores, visible)"

    monkeypatch.setitem(NORMALIZERS, "named", Named)
    config = dataclasses.replace(CONFIGS["opt"], attention=AttentionConfig(Named()))
    checkpoint = kind_for(config)
    with pytest.raises(QtxError, match=f"the normalizer's parameter '{name}' has the name of something else"):
        modeling(checkpoint, config, checkpoint.write_config(config))


def test_an_exported_folder_has_the_file_and_config_json_names_it(tmp_path):
    config = dataclasses.replace(CONFIGS["bert"], attention=VARIANTS["gated_linear"])
    saved(tmp_path, config)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "modeling_qtx.py"}
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["auto_map"]["AutoModelForMaskedLM"] == "modeling_qtx.BertForMaskedLM"
    assert load(tmp_path)[0] == config


@pytest.mark.parametrize("family", CONFIGS)
def test_a_plain_softmax_stays_a_stock_model(tmp_path, family):
    saved(tmp_path, CONFIGS[family])
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert not {"auto_map", "attn_implementation"} & json.loads((tmp_path / "config.json").read_text()).keys()


def test_every_registered_normalizer_and_gate_is_known_in_pytorch():
    of_gates = [gate for gate in GATES.values() if not issubclass(gate, DenseGate)]
    assert all("pytorch" in vars(entry) for entry in (*NORMALIZERS.values(), *of_gates))


@dataclasses.dataclass(frozen=True)
class Halved(Softmax):
    """A softmax at half the scores."""


@dataclasses.dataclass(frozen=True)
class OtherGate(LinearGate):
    """As linear, but nothing says so."""


@pytest.mark.parametrize("registry, entry, kind", [(NORMALIZERS, Halved, "normalizer"), (GATES, OtherGate, "gate")])
def test_what_is_not_known_in_pytorch_is_refused_by_name(tmp_path, monkeypatch, registry, entry, kind):
    monkeypatch.setitem(registry, "stranger", entry)
    config = dataclasses.replace(CONFIGS["bert"], attention=AttentionConfig(**{kind: entry()}))
    with pytest.raises(QtxError, match=f"^{kind} 'stranger' is not known in PyTorch: give {entry.__name__} a method"):
        saved(tmp_path / "model", config)
    assert not (tmp_path / "model").exists()


def test_a_format_that_transformers_does_not_run_is_refused(tmp_path):
    KINDS["timm's ViT"].write(tmp_path / "original")
    config, params = load(tmp_path / "original")
    config = dataclasses.replace(config, attention=VARIANTS["clipped_softmax"].trained_at(9))
    with pytest.raises(QtxError, match="has no code for an attention .*: leave the original out"):
        save(tmp_path / "model", config, params, tmp_path / "original")
    assert not (tmp_path / "model").exists()


PREFIXED = LlamaConfig(**ROTARY | {"dropout": 0.0, "width": 24, "num_heads": 4}, num_kv_heads=2, prefix=2)
WITH_PREFIX = {
    "llama": PREFIXED,
    "a sink too": dataclasses.replace(PREFIXED, attention=VARIANTS["sink"]),
    "normed heads, untied": dataclasses.replace(PREFIXED, qk_norm=True, head_dim=8, tied=False),
}


@needs_torch
@pytest.mark.parametrize("name", WITH_PREFIX)
def test_a_prefix_stands_before_every_text_and_before_what_is_cached(tmp_path, in_torch, name):
    config = WITH_PREFIX[name]
    params = saved(tmp_path / "model", config)
    model = in_torch(tmp_path / "model", "AutoModelForCausalLM")
    assert_equal_logits(model, config, params)
    tokens = batch_of(config)[0]["input_ids"]
    with torch.no_grad():
        first = model(tokens[:, :5], use_cache=True)
        second = model(tokens[:, 5:], past_key_values=first.past_key_values).logits
        torch.testing.assert_close(second, model(tokens).logits[:, 5:])
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "model")[1], params)


def test_a_prefix_is_refused_where_no_code_has_it(tmp_path):
    config = LlamaConfig(**ROTARY | {"width": 24, "num_heads": 6}, prefix=1, norm_offset=1.0, qk_norm=True)
    with pytest.raises(QtxError, match="prefix"):
        save(tmp_path, config, {})
