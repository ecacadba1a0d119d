"""The same model in `transformers` and in qtx, both ways through a folder on disk, for every kind that it has."""

from __future__ import annotations

import functools
import json
import os

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qtx.families import build
from qtx.interop import load, save
from qtx.models.activations import ACTIVATIONS

try:
    import torch
    import transformers
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs torch and transformers (pip install qtx[hf]): {error}", allow_module_level=True)

SHAPE = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "initializer_range": 0.2}
LONGEST = 20
THEIR_NAMES = {"tokens": "input_ids", "mask": "attention_mask", "token_types": "token_type_ids"}
TEXT = {"vocab_size": 53, "max_position_embeddings": LONGEST}


def vit(architecture, **options):
    config = transformers.ViTConfig(**SHAPE, intermediate_size=48, image_size=12, patch_size=4, num_labels=7, **options)
    images = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype(np.float32)
    theirs = {"pixel_values": torch.from_numpy(images.transpose(0, 3, 1, 2).copy())}
    return getattr(transformers, architecture)(config), theirs, {"images": images}


def texts(pairs=False):
    """Theirs and ours: a text of every position, and a shorter one; both of two parts, if they are pairs."""
    tokens = np.random.default_rng(0).integers(4, 53, (2, LONGEST)).astype(np.int32)
    mask = np.arange(LONGEST) < np.array([[LONGEST], [LONGEST - 5]])
    types = (mask & (np.arange(LONGEST) >= np.array([[9], [4]]))).astype(np.int32)
    ours = {"tokens": tokens, "mask": mask} | ({"token_types": types} if pairs else {})
    return {THEIR_NAMES[name]: torch.from_numpy(x).long() for name, x in ours.items()}, ours


def bert(architecture, pairs=False, **options):
    config = transformers.BertConfig(**SHAPE, **TEXT, intermediate_size=48, **options)
    return getattr(transformers, architecture)(config), *texts(pairs=pairs)


def distilbert(head, **options):
    shape = {"n_layers": 3, "n_heads": 4, "dim": 32, "hidden_dim": 48, "initializer_range": 0.2}
    config = transformers.DistilBertConfig(**shape, **TEXT, **options)
    return getattr(transformers, f"DistilBert{head}")(config), *texts()


def albert(head, **options):
    config = transformers.AlbertConfig(**SHAPE, **TEXT, embedding_size=20, intermediate_size=48, **options)
    return getattr(transformers, f"Albert{head}")(config), *texts(pairs=True)


def electra(head, embedding_size=20, **options):
    config = transformers.ElectraConfig(**SHAPE, **TEXT, embedding_size=embedding_size, intermediate_size=48, **options)
    return getattr(transformers, f"Electra{head}")(config), *texts(pairs=True)


def roberta(name, head, **options):
    """Ids that are no padding, so that transformers counts positions from the first token on."""
    config = getattr(transformers, f"{name}Config")(
        **SHAPE, **TEXT | {"max_position_embeddings": LONGEST + 2}, intermediate_size=48, **options
    )
    return getattr(transformers, name + head)(config), *texts()


def other(name, head, **options):
    """The model, its inputs and ours: no token is padding, and texts fill the table of positions, if there is one."""
    positions = {"max_position_embeddings": LONGEST + 2} if name == "MPNet" else {}
    of_text = ("pad", "bos", "eos", "cls", "sep") if name == "ModernBert" else ()
    own = {f"{token}_token_id": 1 for token in of_text}
    config = getattr(transformers, f"{name}Config")(
        **SHAPE | {"num_hidden_layers": 4}, vocab_size=53, intermediate_size=48, **{**positions, **own, **options}
    )
    pairs = getattr(config, "type_vocab_size", 1) > 1
    return getattr(transformers, name + head)(config), *texts(pairs)


def opt(**options):
    shape = {k: v for k, v in SHAPE.items() if k != "initializer_range"}
    config = transformers.OPTConfig(**shape, **TEXT, init_std=0.2, ffn_dim=48, **options)
    return transformers.OPTForCausalLM(config), *texts()


def gpt2(**options):
    shape = {"n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": LONGEST, "initializer_range": 0.2}
    config = transformers.GPT2Config(**shape, vocab_size=53, bos_token_id=1, eos_token_id=1, **options)
    return transformers.GPT2LMHeadModel(config), *texts()


def llama(name, head="ForCausalLM", layers=4, **options):
    """A decoder with grouped heads, whose positions turn at bases that few tokens show."""
    own = {"num_key_value_heads": 2, "rope_theta": 30.0, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1}
    config = getattr(transformers, f"{name}Config")(
        **{**SHAPE, "num_hidden_layers": layers}, **TEXT, intermediate_size=48, **{**own, **options}
    )
    return getattr(transformers, name.removesuffix("Text") + head)(config), *texts()


def gpt_oss(**options):
    """gpt-oss's attention, with a dense feed-forward network instead of a mixture of experts."""
    model, *inputs = llama("GptOss", head_dim=8, num_local_experts=1, num_experts_per_tok=1, **options)
    dense = transformers.models.llama.modeling_llama.LlamaMLP

    class Dense(dense):
        def forward(self, x):
            return super().forward(x), None  # and what a router would say

    for layer in model.model.layers:
        layer.mlp = Dense(transformers.LlamaConfig(hidden_size=32, intermediate_size=48))
    model.config.num_local_experts = 0
    return model, *inputs


def scaled(kind, **options):
    """Options of scaled positions whose waves are shorter, as long and longer than the original context."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 30.0, "factor": 4.0, **options}}


NEAR, FAR = "sliding_attention", "full_attention"
LLAMAS = {
    "LlamaForCausalLM": lambda: llama("Llama"),
    "LlamaModel": lambda: llama("Llama", "Model"),
    "Llama 2": lambda: llama("Llama", num_key_value_heads=4, rms_norm_eps=1e-5, hidden_act="gelu"),
    "Llama, tied and with biases": lambda: llama("Llama", tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "Llama, heads of another size": lambda: llama("Llama", head_dim=12),
    "Llama 3.1": lambda: llama(
        "Llama",
        **scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16),
    ),
    "Llama, linear": lambda: llama("Llama", **scaled("linear")),
    "Llama, dynamic": lambda: llama("Llama", **scaled("dynamic")),
    "Llama, YaRN": lambda: llama("Llama", **scaled("yarn", original_max_position_embeddings=16)),
    "Llama, YaRN with all options": lambda: llama(
        "Llama",
        **scaled(
            "yarn",
            original_max_position_embeddings=16,
            beta_fast=3.0,
            beta_slow=0.5,
            attention_factor=1.3,
            truncate=False,
        ),
    ),
    "Llama, YaRN with two magnitudes": lambda: llama(
        "Llama", **scaled("yarn", original_max_position_embeddings=16, mscale=1.0, mscale_all_dim=0.5)
    ),
    "MistralForCausalLM": lambda: llama("Mistral", sliding_window=6),
    "Mistral without a window": lambda: llama("Mistral", sliding_window=None),
    "Qwen2ForCausalLM": lambda: llama("Qwen2"),
    "Qwen 2 with windows": lambda: llama("Qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=2),
    "Qwen3ForCausalLM": lambda: llama("Qwen3", head_dim=12, tie_word_embeddings=True),
    "Qwen3Model": lambda: llama("Qwen3", "Model", head_dim=8, attention_bias=True),
    "Qwen3NextForCausalLM": lambda: llama("Qwen3Next", head_dim=16, num_experts=0, layer_types=[FAR] * 4),
    "SmolLM3ForCausalLM": lambda: llama("SmolLM3", no_rope_layer_interval=2),
    "SmolLM 3 with windows": lambda: llama("SmolLM3", use_sliding_window=True, sliding_window=5, layers=5),
    "GemmaForCausalLM": lambda: llama("Gemma", head_dim=12),
    "Gemma2ForCausalLM": lambda: llama(
        "Gemma2",
        head_dim=12,
        sliding_window=5,
        query_pre_attn_scalar=24,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        attn_implementation="eager",
    ),
    "Gemma3ForCausalLM": lambda: llama(
        "Gemma3Text", head_dim=8, sliding_window=5, query_pre_attn_scalar=24, rope_local_base_freq=7.0, layers=7
    ),
    "Gemma3TextModel": lambda: llama(
        "Gemma3Text",
        "TextModel",
        head_dim=16,
        layer_types=[FAR, NEAR, FAR, NEAR],
        sliding_window=4,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    ),
    "GptOssForCausalLM": gpt_oss,
    "gpt-oss with a short context": lambda: gpt_oss(
        sliding_window=4, **scaled("yarn", original_max_position_embeddings=16, truncate=False)
    ),
}

KINDS = {
    **LLAMAS,
    "ViTForImageClassification": lambda: vit("ViTForImageClassification"),
    "ViTModel": lambda: vit("ViTModel"),
    "BertModel": lambda: bert("BertModel"),
    "BertForMaskedLM": lambda: bert("BertForMaskedLM"),
    "BertForPreTraining": lambda: bert("BertForPreTraining"),
    "BertForSequenceClassification": lambda: bert("BertForSequenceClassification", pairs=True, num_labels=5),
    "BertForTokenClassification": lambda: bert("BertForTokenClassification", num_labels=5),
    "RobertaForQuestionAnswering": lambda: roberta("Roberta", "ForQuestionAnswering"),
    "RobertaForMaskedLM": lambda: roberta("Roberta", "ForMaskedLM", type_vocab_size=1, layer_norm_eps=1e-5),
    "XLMRobertaModel": lambda: roberta("XLMRoberta", "Model"),
    "XLMRobertaForSequenceClassification": lambda: roberta("XLMRoberta", "ForSequenceClassification", num_labels=1),
    "CamembertForMaskedLM": lambda: roberta("Camembert", "ForMaskedLM"),
    "MPNetForMaskedLM": lambda: other("MPNet", "ForMaskedLM"),
    "MPNetForSequenceClassification": lambda: other("MPNet", "ForSequenceClassification", num_labels=5),
    "MPNetForQuestionAnswering": lambda: other("MPNet", "ForQuestionAnswering", layer_norm_eps=1e-5),
    "NomicBertForMaskedLM": lambda: other("NomicBert", "ForMaskedLM"),
    "NomicBertForTokenClassification": lambda: other("NomicBert", "ForTokenClassification", num_labels=5),
    "NomicBertForSequenceClassification": lambda: other("NomicBert", "ForSequenceClassification", num_labels=1),
    "GteModel": lambda: other("Gte", "Model", pad_token_id=1),
    "GteForMaskedLM": lambda: other("Gte", "ForMaskedLM", pad_token_id=1, type_vocab_size=0),
    "GteForSequenceClassification": lambda: other("Gte", "ForSequenceClassification", pad_token_id=1),
    "ModernBertModel": lambda: other("ModernBert", "Model", local_attention=6),
    "ModernBertForMaskedLM": lambda: other("ModernBert", "ForMaskedLM", local_attention=6),
    "ModernBertForSequenceClassification": lambda: other(
        "ModernBert", "ForSequenceClassification", classifier_pooling="mean", num_labels=3, local_attention=6
    ),
    "ModernBertForTokenClassification": lambda: other("ModernBert", "ForTokenClassification", num_labels=3),
    "ModernBertForQuestionAnswering": lambda: other(
        "ModernBert", "ForQuestionAnswering", layer_types=["full_attention"] + 3 * ["sliding_attention"]
    ),
    "DistilBertModel": lambda: distilbert("Model", sinusoidal_pos_embds=True),
    "DistilBertForMaskedLM": lambda: distilbert("ForMaskedLM", activation="relu"),
    "DistilBertForSequenceClassification": lambda: distilbert("ForSequenceClassification", num_labels=5),
    "DistilBertForTokenClassification": lambda: distilbert("ForTokenClassification", num_labels=5),
    "DistilBertForQuestionAnswering": lambda: distilbert("ForQuestionAnswering"),
    "ElectraModel": lambda: electra("Model"),
    "ElectraForPreTraining": lambda: electra("ForPreTraining", hidden_act="gelu"),
    "ElectraForMaskedLM": lambda: electra("ForMaskedLM", type_vocab_size=3),
    "ElectraForSequenceClassification": lambda: electra("ForSequenceClassification", num_labels=1),
    "ElectraForTokenClassification": lambda: electra("ForTokenClassification", embedding_size=32, num_labels=5),
    "ElectraForQuestionAnswering": lambda: electra("ForQuestionAnswering"),
    "AlbertModel": lambda: albert("Model"),
    "AlbertForMaskedLM": lambda: albert("ForMaskedLM", layer_norm_eps=1e-5),
    "AlbertForPreTraining": lambda: albert("ForPreTraining", hidden_act="relu"),
    "AlbertForSequenceClassification": lambda: albert("ForSequenceClassification", num_labels=5),
    "AlbertForTokenClassification": lambda: albert("ForTokenClassification", num_labels=5),
    "AlbertForQuestionAnswering": lambda: albert("ForQuestionAnswering"),
    "OPT": opt,
    "OPT-350m": lambda: opt(do_layer_norm_before=False, word_embed_proj_dim=20),
    "OPT with projections": lambda: opt(word_embed_proj_dim=20),
    "OPT with GELU": lambda: opt(activation_function="gelu"),
    "GPT-2": gpt2,
    "GPT-2 with another epsilon": lambda: gpt2(n_inner=48, layer_norm_epsilon=1e-6, activation_function="relu"),
    "ViT with quick GELU": lambda: vit("ViTForImageClassification", hidden_act="quick_gelu"),
    **{
        f"BERT with {name}": functools.partial(bert, "BertForMaskedLM", hidden_act=name)
        for name in ACTIVATIONS
        if name != "gelu"
    },
}


# What a model is written as without its original, if that is another class that computes the same.
WITHOUT_ORIGINAL = {
    "BertForPreTraining": "BertForMaskedLM",
    "RobertaForMaskedLM": "BertForMaskedLM",
    "XLMRobertaModel": "BertModel",
    "XLMRobertaForSequenceClassification": "BertForSequenceClassification",
    "CamembertForMaskedLM": "BertForMaskedLM",
    "RobertaForQuestionAnswering": "BertForQuestionAnswering",
    "ElectraForPreTraining": "ElectraModel",
    "AlbertForPreTraining": "AlbertForMaskedLM",
    "Mistral without a window": "LlamaForCausalLM",
    "GPT-2": "OPTForCausalLM",
}
# No class of transformers has gpt-oss's attention and a dense feed-forward network.
WITHOUT_THEIR_CLASS = ("GptOssForCausalLM", "gpt-oss with a short context")


def output_of(model, inputs):
    """Logits, of the masked-language head where there are two, of both ends of a span, or the last hidden states; these
    of ELECTRA's discriminator too, whose head no model of ours has."""
    model = model.electra if type(model).__name__ == "ElectraForPreTraining" else model
    with torch.no_grad():
        output = model(**inputs)
    if "start_logits" in output:
        return torch.stack([output["start_logits"], output["end_logits"]], dim=-1).numpy()
    found = [output[key] for key in ("logits", "prediction_logits", "last_hidden_state") if key in output]
    return found[0].numpy()


def randomized(model):
    """The model, with random biases and norms too: they start at 0 and 1, where a swapped pair does not show."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.tie_weights()
    return model.eval()


@pytest.mark.parametrize("name", KINDS)
def test_outputs_equal_those_of_transformers(tmp_path, name):
    torch.manual_seed(0)
    model, their_inputs, batch = KINDS[name]()
    randomized(model).save_pretrained(tmp_path / "theirs")
    expected = output_of(model, their_inputs)

    config, params = load(tmp_path / "theirs")
    with jax.default_matmul_precision("highest"):
        found = np.asarray(jax.jit(build(config).apply)({"params": params}, batch))
    assert found.shape == expected.shape
    valid = batch["mask"] if "mask" in batch and found.ndim == 3 else ...
    scale = np.abs(expected[valid]).max()
    assert scale > 0.1
    np.testing.assert_allclose(found[valid], expected[valid], rtol=0, atol=1e-5 * scale)

    # As `transformers` would have it, and as the original has it.
    save(tmp_path / "ours", config, params)
    save(tmp_path / "again", config, params, original=tmp_path / "theirs")
    if name in WITHOUT_THEIR_CLASS:
        return
    kinds = {"ours": getattr(transformers, WITHOUT_ORIGINAL.get(name, type(model).__name__)), "again": type(model)}
    for folder, kind in kinds.items():
        written, told = kind.from_pretrained(tmp_path / folder, output_loading_info=True)
        pooler = getattr(written, "pooler", None) if folder == "ours" else None
        unused = set() if pooler is None else {f"pooler.{name}" for name in pooler.state_dict()}
        assert (set(told["missing_keys"]), set(told["unexpected_keys"])) == (unused, set())
        output = output_of(written.eval(), their_inputs)
        np.testing.assert_allclose(output[valid], expected[valid], rtol=0, atol=1e-6 * scale)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["BertModel", "RobertaForMaskedLM", "DistilBertForMaskedLM", "ElectraForMaskedLM", "AlbertModel"]
)
def test_texts_of_every_length_that_has_positions_are_the_same_padded(tmp_path, name):
    torch.manual_seed(0)
    model = randomized(KINDS[name]()[0])
    model.save_pretrained(tmp_path)
    config, params = load(tmp_path)
    assert config.max_length == LONGEST
    tokens = np.random.default_rng(1).integers(4, 53, (LONGEST, LONGEST)).astype(np.int32)
    batch = {"tokens": tokens, "mask": np.tril(np.ones_like(tokens, bool))}
    with jax.default_matmul_precision("highest"):
        found = np.asarray(jax.jit(build(config).apply)({"params": params}, batch))
    for i in range(LONGEST):
        expected = output_of(model, {"input_ids": torch.from_numpy(tokens[i : i + 1, : i + 1]).long()})[0]
        np.testing.assert_allclose(found[i, : i + 1], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# A model of each kind, and the type of its weights: half of the kinds in one half precision, half in the other.
HALVES = {
    "BertModel": torch.bfloat16,
    "RobertaForMaskedLM": torch.float16,
    "XLMRobertaForSequenceClassification": torch.bfloat16,
    "MPNetForMaskedLM": torch.float16,
    "NomicBertForMaskedLM": torch.bfloat16,
    "GteForSequenceClassification": torch.float16,
    "ModernBertForTokenClassification": torch.bfloat16,
    "DistilBertForMaskedLM": torch.float16,
    "ElectraForSequenceClassification": torch.bfloat16,
    "AlbertForMaskedLM": torch.float16,
    "LlamaForCausalLM": torch.bfloat16,
    "Qwen3ForCausalLM": torch.float16,
    "Gemma3ForCausalLM": torch.bfloat16,
}


@pytest.mark.representative("BertModel")
@pytest.mark.parametrize("name", HALVES)
def test_half_precision_and_shards_of_transformers_are_read(tmp_path, name):
    torch.manual_seed(0)
    model, their_inputs, batch = KINDS[name]()
    randomized(model).to(HALVES[name])
    model.save_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    config, params = load(tmp_path / "theirs")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "shards"), (config, params))

    # Read again: rotary angles are no weights, and would be as rough as the type that the model had.
    in_float32 = type(model).from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    expected = output_of(in_float32.eval(), their_inputs)
    with jax.default_matmul_precision("highest"):
        found = np.asarray(jax.jit(build(config).apply)({"params": params}, batch))
    valid = batch["mask"] if found.ndim == 3 else ...
    np.testing.assert_allclose(found[valid], expected[valid], rtol=0, atol=1e-5 * np.abs(expected[valid]).max())

    for original, again in (("theirs", "again"), ("shards", "again_in_shards")):
        save(tmp_path / again, config, params, original=tmp_path / original)
        written, told = type(model).from_pretrained(tmp_path / again, dtype="auto", output_loading_info=True)
        assert written.dtype == HALVES[name] and not (told["missing_keys"] or told["unexpected_keys"])
        for key, value in model.state_dict().items():
            assert torch.equal(value, written.state_dict()[key]), key
        assert json.loads((tmp_path / again / "config.json").read_text())["dtype"] == str(HALVES[name])[6:]


@pytest.mark.parametrize("name", ["BertModel", "OPT"])
def test_names_without_the_prefix_are_those_that_transformers_takes(tmp_path, name):
    """OPT was published as OPTModel names it, and BERT's encoders with the prefix of a model that has a head."""
    torch.manual_seed(0)
    model, their_inputs, batch = KINDS[name]()
    randomized(model).save_pretrained(tmp_path)
    expected = load(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    if name == "OPT":
        tensors = {key.removeprefix("model."): x for key, x in tensors.items()}
    else:
        tensors = {f"bert.{key}": x for key, x in tensors.items()}
    save_file(tensors, file, {"format": "pt"})
    same = type(model).from_pretrained(tmp_path).eval()
    np.testing.assert_array_equal(output_of(same, their_inputs), output_of(model, their_inputs))
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path), expected)
