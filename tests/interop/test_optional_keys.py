"""A key of config.json that is left out, null, or at its default is the same model, and is given back as it was."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from qtx.families import FAMILIES
from qtx.families.checkpoint import REQUIRED
from qtx.foundation.config import read_section, section
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.pipeline.importing import check_model, stored_model
from tests.interop.kinds import KINDS, LAYERS, MLP, NOMIC, OF_NOMICS_HUB, WIDTH
from tests.interop.test_kinds import assert_same_bits, load_file

OF_KIND = {
    "bert": ("BertForMaskedLM", "BertForSequenceClassification"),
    "roberta": ("RobertaForMaskedLM",),
    "mpnet": ("MPNetForMaskedLM",),
    "nomic_bert": ("NomicBertForSequenceClassification",),
    "gte": ("GteForMaskedLM",),
    "new": ("GteModel, of the hub",),
    "modernbert": ("ModernBertForTokenClassification",),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertForSequenceClassification"),
    "electra": ("ElectraForMaskedLM",),
    "albert": ("AlbertForMaskedLM",),
    "opt": ("OPTForCausalLM", "OPTForCausalLM, post-LN"),
    "gpt2": ("GPT2LMHeadModel, as published",),
    "llama": ("LlamaForCausalLM",),
    "mistral": ("MistralForCausalLM",),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
    "qwen3_next": ("Qwen3NextForCausalLM",),
    "smollm3": ("SmolLM3ForCausalLM",),
    "gemma": ("GemmaForCausalLM",),
    "gemma2": ("Gemma2ForCausalLM",),
    "gemma3_text": ("Gemma3ForCausalLM",),
    "gpt_oss": ("GptOssForCausalLM",),
    "vit": ("ViTForImageClassification",),
    "timm": ("timm's ViT",),
}
LLAMAS = ("mistral", "qwen2", "qwen3", "qwen3_next", "smollm3", "gemma", "gemma2", "gemma3_text", "gpt_oss")
CHECKPOINTS = {
    next(iter(checkpoint.model_types)) if checkpoint.written else checkpoint.library.name: checkpoint
    for family in FAMILIES.values()
    for checkpoint in family.checkpoints
}
# What transformers, or timm, takes null for.
NULLS = {
    "bert": ("classifier_dropout", "position_embedding_type", "problem_type", "pad_token_id"),
    "roberta": ("classifier_dropout", "position_embedding_type", "problem_type"),
    "mpnet": ("classifier_dropout",),
    "nomic_bert": ("classifier_dropout", "problem_type", "head_dim", "rope_scaling", "rotary_scaling_factor"),
    "gte": ("rope_scaling", "rope_parameters"),
    "new": ("classifier_dropout", "rope_parameters"),
    "modernbert": ("layer_types", "rope_parameters", "rope_scaling", "problem_type"),
    "distilbert": ("pad_token_id", "problem_type"),
    "electra": ("classifier_dropout", "position_embedding_type", "problem_type", "pad_token_id"),
    "albert": ("problem_type", "pad_token_id", "position_embedding_type"),
    "opt": ("word_embed_proj_dim",),
    "gpt2": ("n_inner", "pad_token_id"),
    "llama": ("rope_scaling", "rope_parameters", "head_dim", "pad_token_id"),
    "mistral": ("head_dim", "rope_scaling", "layer_types"),
    "qwen2": ("layer_types", "rope_scaling"),
    "qwen3": ("layer_types", "rope_scaling"),
    "qwen3_next": ("rope_scaling", "decoder_sparse_step"),
    "smollm3": ("layer_types", "rope_scaling", "no_rope_layers"),
    "gemma": ("hidden_activation", "rope_scaling"),
    "gemma2": ("layer_types", "cache_implementation"),
    "gemma3_text": ("layer_types", "rope_scaling", "final_logit_softcapping", "attn_logit_softcapping"),
    "gpt_oss": ("layer_types", "rope_parameters"),
    "vit": (),
    "timm": ("fc_norm", "init_values"),
}
SAID = {"word_embed_proj_dim": WIDTH}
"""What null means, where that is no value of its own."""
OF_TRAINING = {
    "bert": {
        "classifier_dropout": (0.25, 0.0, 1.0),
        "hidden_dropout_prob": (0, 1.0),
        "attention_probs_dropout_prob": (0.3, 1.0),
        "initializer_range": (0.0, 1),
        "use_cache": (False,),
        "gradient_checkpointing": (True, None),
    },
    "roberta": {"classifier_dropout": (0.25,), "hidden_dropout_prob": (1.0,), "use_cache": (False,)},
    "mpnet": {"hidden_dropout_prob": (1.0,)},
    "nomic_bert": {"classifier_dropout": (0.1,), "initializer_range": (1,)},
    "new": {"use_memory_efficient_attention": (True,)},
    "gte": {"classifier_dropout": (0.1,), "hidden_dropout_prob": (0.3,), "unpad_inputs": (True,)},
    "modernbert": {"embedding_dropout": (0.1,), "mlp_dropout": (1.0,), "classifier_dropout": (0.2,)},
    "distilbert": {
        "seq_classif_dropout": (0.0, 1.0),
        "qa_dropout": (0.3,),
        "dropout": (1.0,),
        "attention_dropout": (0,),
        "initializer_range": (1,),
        "sinusoidal_pos_embds": (True, False),
    },
    "electra": {
        "classifier_dropout": (0.25,),
        "hidden_dropout_prob": (1.0,),
        "summary_last_dropout": (0.5,),
        "summary_activation": ("relu", None),
        "use_cache": (False,),
    },
    "albert": {
        "classifier_dropout_prob": (0.25,),
        "hidden_dropout_prob": (1.0,),
        "down_scale_factor": (2,),
        "net_structure_type": (0,),
    },
    "opt": {
        "layerdrop": (0.5,),
        "dropout": (1.0,),
        "attention_dropout": (0.1,),
        "init_std": (0.0,),
        "use_cache": (True,),
    },
    "gpt2": {"resid_pdrop": (1.0,), "embd_pdrop": (0.3,), "n_inner": (4 * WIDTH,), "summary_use_proj": (False,)},
    "llama": {"attention_dropout": (1.0,), "initializer_range": (0.0,), "pretraining_tp": (2,), "use_cache": (False,)},
    **{kind: {"attention_dropout": (0.3,)} for kind in LLAMAS},
    "vit": {
        "hidden_dropout_prob": (1.0,),
        "initializer_range": (0.0,),
        "encoder_stride": (7,),
        "pooler_act": ("relu",),
    },
    "timm": {"drop_rate": (0.4,), "drop_path_rate": (0.0, None), "weight_init": ("jax",), "fix_init": (True,)},
}


# What transformers takes where it is another value than Llama's.
GEMMAS = {"hidden_act": "gelu_pytorch_tanh"}
OTHERWISE = {
    "mistral": {"max_position_embeddings": 131_072},
    **dict.fromkeys(("qwen2", "qwen3", "qwen3_next", "smollm3"), {"max_position_embeddings": 32_768}),
    **dict.fromkeys(("gemma", "gemma2"), {**GEMMAS, "max_position_embeddings": 8192}),
    "gemma3_text": {**GEMMAS, "max_position_embeddings": 131_072},
    "gpt_oss": {"max_position_embeddings": 131_072},
}
# Without these the rows of `KINDS` are other models: ones with experts, and one with a head of its own.
SAID_ALWAYS = {"qwen3": ("tie_word_embeddings",), "qwen3_next": ("num_experts",), "gpt_oss": ("num_local_experts",)}


def optional_keys(kind):
    """Every key that may be left out, and what that means."""
    checkpoint = CHECKPOINTS[kind]
    defaults = {key: field.default for key, field in checkpoint.fields.items() if field.default is not REQUIRED}
    found = {**defaults, **checkpoint.supported, **OTHERWISE.get(kind, {})}
    return {key: value for key, value in found.items() if key not in SAID_ALWAYS.get(kind, ())}


CASES = [
    (kind, name, key, values)
    for kind, names in OF_KIND.items()
    for name in names
    for key, values in {
        **{
            key: (SAID.get(key, value), *([None] if key in NULLS[kind] else []))
            for key, value in optional_keys(kind).items()
        },
        **dict.fromkeys(NULLS[kind], (None,)),
        **OF_TRAINING[kind],
    }.items()
]


def test_the_table_has_every_kind():
    assert OF_KIND.keys() == CHECKPOINTS.keys()


def imported_and_exported(folder, again):
    """Reads a checkpoint as `qtx import` does, and writes it anew; returns its config and its parameters."""
    config, params = load(folder)
    shown = read_section(type(config), section(config), "config.model").resolved()
    check_model(shown, stored_model(folder, shown.attention))
    save(again, shown, params, original=folder)
    return shown, params


@pytest.mark.representative(
    *("BertForSequenceClassification-*", "OPTForCausalLM-*", "timm's*"),
    *("DistilBertForMaskedLM-activation", "AlbertForMaskedLM-hidden_dropout_prob"),
)
@pytest.mark.parametrize("kind, name, key, values", CASES, ids=[f"{name}-{key}" for _, name, key, _ in CASES])
def test_it_is_the_same_model_and_is_given_back(tmp_path, kind, name, key, values):
    arguments = kind == "timm"
    whole = KINDS[name].config
    # The post-LN kind says the first two otherwise, and ALBERT the third.
    told = whole["model_args"] if arguments else whole
    if key in ("do_layer_norm_before", "word_embed_proj_dim", "embedding_size") and key in told:
        return
    left_out = {k: v for k, v in told.items() if k != key}
    expected = None
    for number, value in enumerate((None, *values)):
        changed = left_out if number == 0 else {**left_out, key: value}
        config = {**whole, "model_args": changed} if arguments else changed
        original, again = tmp_path / f"original{number}", tmp_path / f"again{number}"
        tensors = dataclasses.replace(KINDS[name], config=config).write(original)
        model, params = imported_and_exported(original, again)
        assert json.loads((again / "config.json").read_text()) == config
        assert_same_bits(load_file(again / "model.safetensors"), tensors)
        twice = imported_and_exported(again, tmp_path / f"twice{number}")
        assert twice[0] == model
        jax.tree.map(np.testing.assert_array_equal, twice[1], params)
        model = dataclasses.replace(model, dropout=0.0, attention_dropout=0.0, init_std=1.0)
        expected = model if expected is None else expected
        assert model == expected, f"{key} {value!r}"


def theta(base):
    return {"rope_type": "default", "rope_theta": base}


GENERAL = (
    {"torch_dtype": "float32", "position_embedding_type": "absolute", "transformers_version": "4.48.0"},
    {"dtype": "float32", "is_decoder": False, "add_cross_attention": False, "transformers_version": "5.23.0"},
    {},
)
OF_LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 4,
}
OF_GPT_OSS = {
    "rope_type": "yarn",
    "factor": 2.0,
    "beta_fast": 8.0,
    "truncate": False,
    "original_max_position_embeddings": 3,
}
# Keys as transformers 4, or the hub's own files, have them, as transformers 5 writes them, and what both mean.
EARLIER_AND_LATER = {
    "ModernBertModel": (
        {"global_rope_theta": 8e4, "local_rope_theta": 5e3, "global_attn_every_n_layers": LAYERS},
        {
            "rope_parameters": {"full_attention": theta(8e4), "sliding_attention": theta(5e3)},
            "layer_types": ["full_attention", *["sliding_attention"] * (LAYERS - 1)],
        },
        {"global_base": 8e4, "local_base": 5e3, "global_every": LAYERS},
    ),
    "NomicBertModel, of the hub": (
        OF_NOMICS_HUB,
        NOMIC | {"rope_parameters": theta(1000), "architectures": OF_NOMICS_HUB["architectures"]},
        {"rotary_base": 1000, "activation": "silu", "mlp_width": MLP},
    ),
    "GteForMaskedLM": ({"rope_theta": 3e4}, {"rope_parameters": theta(3e4)}, {"rotary_base": 3e4, "rotary_factor": 1}),
    "GteModel, of the hub": (
        {"rope_theta": 3e4, "rope_scaling": {"type": "ntk", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "ntk", "rope_theta": 3e4, "factor": 2.0}},
        {"rotary_base": 3e4, "rotary_factor": 2.0},
    ),
    **dict.fromkeys((OF_KIND[kind][0] for kind in ("bert", "roberta", "mpnet", "electra", "albert")), GENERAL),
    "LlamaForCausalLM": (
        {"rope_theta": 3e4, "rope_scaling": OF_LLAMA_3 | {"type": "llama3"}},
        {"rope_parameters": OF_LLAMA_3 | {"rope_theta": 3e4}},
        {"rotary_base": 3e4, "rotary_scaling": "llama3,factor=8.0,low=1.0,high=4.0,original=4"},
    ),
    "MistralForCausalLM": ({"rope_theta": 3e4}, {"rope_parameters": theta(3e4)}, {"rotary_base": 3e4, "window": 3}),
    "Qwen2ForCausalLM, with windows": (
        {"max_window_layers": 1, "use_sliding_window": True},
        {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True},
        {"window": 4, "global_layers": (0,)},
    ),
    "Qwen3NextForCausalLM": (
        {"rope_theta": 3e4, "partial_rotary_factor": 0.25},
        {"rope_parameters": theta(3e4) | {"partial_rotary_factor": 0.25}},
        {"rotary_share": 0.25, "rotary_base": 3e4},
    ),
    "SmolLM3ForCausalLM": (
        {"no_rope_layer_interval": 2},
        {"no_rope_layers": [1, 0], "layer_types": ["full_attention"] * 2},
        {"unrotated_layers": (1,), "window": None},
    ),
    "Gemma3ForCausalLM": (
        {"rope_theta": 3e4, "rope_local_base_freq": 20.0, "sliding_window_pattern": 2},
        {
            "rope_parameters": {"full_attention": theta(3e4), "sliding_attention": theta(20.0)},
            "layer_types": ["sliding_attention", "full_attention"],
        },
        {"rotary_base": 3e4, "local_base": 20.0, "global_layers": (1,)},
    ),
    "GptOssForCausalLM": (
        {"rope_theta": 3e4, "rope_scaling": OF_GPT_OSS},
        {"rope_parameters": OF_GPT_OSS | {"rope_theta": 3e4}},
        {"rotary_base": 3e4, "rotary_scaling": "yarn,factor=2.0,original=3,fast=8.0,whole=False"},
    ),
    "DistilBertForMaskedLM": ({"torch_dtype": "float32", "tie_weights_": True}, {"dtype": "float32"}, {}),
}


@pytest.mark.representative("ModernBertModel")
@pytest.mark.parametrize("name", EARLIER_AND_LATER)
def test_keys_of_transformers_4_and_5_mean_the_same_model(tmp_path, name):
    earlier, later, meant = EARLIER_AND_LATER[name]
    others = {key: x for key, x in KINDS[name].config.items() if key not in {*earlier, *later}}
    models = []
    for number, keys in enumerate((earlier, later)):
        dataclasses.replace(KINDS[name], config=others | keys).write(tmp_path / f"original{number}")
        models.append(imported_and_exported(tmp_path / f"original{number}", tmp_path / f"again{number}"))
        assert json.loads((tmp_path / f"again{number}/config.json").read_text()) == others | keys
    assert {option: getattr(models[0][0], option) for option in meant} == meant
    assert models[0][0] == models[1][0]
    jax.tree.map(np.testing.assert_array_equal, models[0][1], models[1][1])


def test_widths_that_are_equal_are_no_projection(tmp_path):
    """Every published pre-LN OPT says so."""
    kind = KINDS["OPTForCausalLM"]
    dataclasses.replace(kind, config=kind.config | {"word_embed_proj_dim": WIDTH}).write(tmp_path / "opt")
    config = load(tmp_path / "opt")[0]
    assert config.embedding_width is None and not config.projected
    wider = dataclasses.replace(config, embedding_width=WIDTH + 1)
    with pytest.raises(
        QtxError, match="config.model.embedding_width is not what the checkpoint has, None: leave it out$"
    ):
        check_model(wider, stored_model(tmp_path / "opt", config.attention))
    with pytest.raises(QtxError, match=f"config.model.mlp_width is not what the checkpoint has, {MLP}"):
        check_model(dataclasses.replace(config, mlp_width=1), stored_model(tmp_path / "opt", config.attention))


def test_tables_are_as_wide_as_electras_config_says_or_transformers_takes_them_to_be(tmp_path):
    """Every published large ELECTRA has tables as wide as the model, the others have 128 columns or the model's 768."""
    kind = KINDS["ElectraForSequenceClassification"]
    kind.write(tmp_path / "as_wide")
    config, params = load(tmp_path / "as_wide")
    assert config.embedding_width is None and "project_in" not in params["embeddings"]
    save(tmp_path / "anew", config, params)
    assert json.loads((tmp_path / "anew/config.json").read_text())["embedding_size"] == WIDTH
    assert load(tmp_path / "anew")[0] == config
    untold = {key: value for key, value in kind.config.items() if key != "embedding_size"}
    dataclasses.replace(kind, config=untold).write(tmp_path / "untold")
    with pytest.raises(QtxError, match=r"has shape \(11, 8\), but its config.json means \(11, 128\)|lacks electra.emb"):
        load(tmp_path / "untold")


# A tied weight of each kind, and its other name.
TIED = {
    "OPTForCausalLM": {"model.decoder.embed_tokens.weight": "lm_head.weight"},
    "BertForMaskedLM": {
        "bert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    },
    "OPTForCausalLM, as published": {"decoder.embed_tokens.weight": "lm_head.weight"},
    "AlbertForMaskedLM": {
        "albert.embeddings.word_embeddings.weight": "predictions.decoder.weight",
        "predictions.bias": "predictions.decoder.bias",
    },
    "LlamaForCausalLM, tied": {"model.embed_tokens.weight": "lm_head.weight"},
    "DistilBertForMaskedLM": {"distilbert.embeddings.word_embeddings.weight": "vocab_projector.weight"},
    "ElectraForMaskedLM": {"electra.embeddings.word_embeddings.weight": "generator_lm_head.weight"},
}


@pytest.mark.representative("OPT*", "Bert*")
@pytest.mark.parametrize("name", TIED)
def test_a_tied_weight_is_read_under_either_name_and_given_back_under_the_same(tmp_path, name):
    kind = KINDS[name]
    whole = dataclasses.replace(kind, copies={})
    tensors = whole.write(tmp_path / "one")
    expected = load(tmp_path / "one")
    renamed = {TIED[name].get(key, key): shape for key, shape in kind.shapes.items()}
    assert renamed.keys() != kind.shapes.keys()
    other = dataclasses.replace(whole, shapes=renamed).write(tmp_path / "other")
    found = load(tmp_path / "other")
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    save(tmp_path / "again", found[0], jax.tree.map(lambda x: x + 1, found[1]), original=tmp_path / "other")
    assert_same_bits(load_file(tmp_path / "again/model.safetensors"), {key: x + 1 for key, x in other.items()})
    assert sorted(x.tobytes() for x in other.values()) == sorted(x.tobytes() for x in tensors.values())
