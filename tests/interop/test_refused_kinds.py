"""What a checkpoint has that qtx does not represent is refused by its name, in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qtx.foundation.errors import QtxError
from qtx.interop import load
from qtx.interop.weight_files import INDEX
from tests.interop.kinds import KINDS, MLP, POSITION_IDS, TIMM, WIDTH, shard


def values(**changes: Any):
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def arguments(**changes: Any):
    return values(model_args=TIMM["model_args"] | changes)


def weights(**more: np.ndarray):
    """Adds tensors; in their names a dot is two underscores."""

    def change(folder: Path) -> None:
        named = {name.replace("__", "."): x for name, x in more.items()}
        save_file(load_file(folder / "model.safetensors") | named, folder / "model.safetensors")

    return change


def index(**changes: Any):
    def change(folder: Path) -> None:
        shard(folder)
        content = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps(content | changes))

    return change


def misplaced(place: str):
    """Sends one tensor elsewhere."""

    def change(folder: Path) -> None:
        shard(folder)
        content = json.loads((folder / INDEX).read_text())
        content["weight_map"]["embeddings.position_ids"] = place
        (folder / INDEX).write_text(json.dumps(content))

    return change


def without_first_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00001-of-00003.safetensors").unlink()


def shortened_shard(folder: Path) -> None:
    shard(folder)
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def pickled(name: str):
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


VECTOR = np.zeros(WIDTH, np.float32)
CASES = {
    "an unknown head": (
        "BertModel",
        values(architectures=["BertForMultipleChoice"]),
        "unknown architecture .*BertForMultipleChoice.* expected one of BertForMaskedLM",
    ),
    "architectures no list": ("BertModel", values(architectures="BertModel"), "expected a list of one name"),
    "an unknown activation": ("BertModel", values(hidden_act="gelu_10"), "unknown activation 'gelu_10'"),
    "relative positions": (
        "BertModel",
        values(position_embedding_type="relative_key"),
        "position_embedding_type is 'relative_key'; qtx's bert supports only 'absolute'",
    ),
    "pruned heads": ("BertModel", values(pruned_heads={"0": [1]}), "has pruned_heads, which qtx does not support"),
    "quantized": ("BertModel", values(quantization_config={"bits": 4}), "has quantization_config"),
    "no classifier": (
        "BertModel",
        values(architectures=["BertForSequenceClassification"]),
        "neither config.json nor the weights tell num_classes",
    ),
    "a decoder": ("BertModel", values(is_decoder=True), "is_decoder is True; qtx's bert supports only False"),
    "a head that the config does not tell": (
        "BertModel",
        weights(classifier__weight=np.zeros((2, WIDTH), np.float32), classifier__bias=np.zeros(2, np.float32)),
        "has unexpected classifier.bias, classifier.weight",
    ),
    "a scalar classifier": (
        "BertForSequenceClassification",
        weights(classifier__bias=np.zeros((), np.float32)),
        r"classifier.weight has shape \(3, 8\), but its config.json means \(1, 8\)",
    ),
    "a name twice": (
        "BertModel",
        weights(bert__encoder__layer__0__output__LayerNorm__gamma=VECTOR),
        "has bert.encoder.layer.0.output.LayerNorm.weight twice",
    ),
    "weights of integers": (
        "BertModel",
        weights(encoder__layer__0__intermediate__dense__bias=np.zeros(MLP, np.int64)),
        "intermediate.dense.bias is of int64, expected float32, float16, bfloat16",
    ),
    "weights of twice the precision": (
        "BertModel",
        weights(encoder__layer__0__intermediate__dense__bias=np.zeros(MLP)),
        "intermediate.dense.bias is of float64, expected float32",
    ),
    "ModernBERT, layers in no order": (
        "ModernBertModel",
        values(layer_types=["sliding_attention", "full_attention"]),
        "layer_types are .* expected every n-th layer to be 'full_attention'",
    ),
    "ModernBERT, rotary positions of no kind of layer": (
        "ModernBertModel",
        values(rope_parameters={"rope_theta": 1e4}),
        "rope_parameters are .*, expected those of full_attention and sliding_attention",
    ),
    "ModernBERT, scaled positions": (
        "ModernBertModel",
        values(rope_parameters={"full_attention": {"rope_type": "yarn", "factor": 4}}),
        "rope_type is 'yarn'; qtx supports only 'default'",
    ),
    "ModernBERT, biases": ("ModernBertModel", values(norm_bias=True), "norm_bias is True; qtx's modernbert supports"),
    "ModernBERT, kinds of fewer layers": (
        "ModernBertModel",
        values(layer_types=["full_attention"]),
        "layer_types are 1: expected one for each of num_hidden_layers",
    ),
    "ModernBERT, layers of another type": (
        "ModernBertModel",
        values(layer_types=3),
        "has no values that its model can have: object of type 'int' has no len",
    ),
    "Nomic, a head's size alone": (
        "NomicBertModel, of the hub",
        values(head_dim=4, n_head=None),
        "has no 'num_attention_heads', which a NomicBertForMaskedLM needs",
    ),
    "Nomic, pre-LN": ("NomicBertModel, of the hub", values(prenorm=True), "prenorm is True; qtx's nomic_bert supports"),
    "Nomic, another activation": (
        "NomicBertModel, of the hub",
        values(activation_function="relu"),
        "activation_function is 'relu'; qtx has swiglu, geglu",
    ),
    "GTE, a scaling without a factor": (
        "GteModel, of the hub",
        values(rope_scaling={"type": "ntk"}),
        "rope_type is 'ntk' without a factor",
    ),
    "GTE, a scaling beside what has none": (
        "GteModel, of the hub",
        values(rope_parameters={"rope_type": "default"}, rope_scaling={"type": "linear", "factor": 2.0}),
        "rope_type is 'linear'; qtx supports only 'default' or 'ntk'",
    ),
    "MPNet, other buckets": (
        "MPNetForMaskedLM",
        values(relative_attention_num_buckets=16),
        "relative_attention_num_buckets is 16; qtx's mpnet supports only 32",
    ),
    "RoBERTa, another padding": (
        "XLMRobertaModel",
        values(pad_token_id=0),
        "pad_token_id is 0; qtx's xlm-rob",
    ),
    "RoBERTa, an activation that its head lacks": (
        "RobertaForMaskedLM",
        values(hidden_act="relu"),
        "hidden_act is 'relu'; qtx's roberta supports only 'gelu'",
    ),
    "RoBERTa, a class of XLM-R": (
        "RobertaForMaskedLM",
        values(architectures=["XLMRobertaForMaskedLM"]),
        "expected one of RobertaForMaskedLM, RobertaForQuestionAnswering, RobertaForSequenceClassification",
    ),
    "RoBERTa, positions of another type": (
        "RobertaForMaskedLM",
        values(max_position_embeddings="8"),
        "max_position_embeddings is '8', which is no max_length",
    ),
    "RoBERTa, no positions": ("RobertaForMaskedLM", values(max_position_embeddings=1), "max_length is -1: expected at"),
    "no words": ("BertModel", values(vocab_size=0), "vocab_size is 0: expected at least 1"),
    "a size that no array has": (
        "BertModel",
        values(intermediate_size=10**30),
        r"not a model's config \(it means a weight of the shape \(2, 8, 10{30}\)\)",
    ),
    "BERT, no token types": (
        "BertModel",
        values(type_vocab_size=0),
        "type_vocab_size is '0', which is no type_vocab_size: there is a table of token types",
    ),
    "DistilBERT, token types": (
        "DistilBertModel",
        weights(embeddings__token_type_embeddings__weight=np.zeros((2, WIDTH), np.float32)),
        "has unexpected distilbert.embeddings.token_type_embeddings.weight",
    ),
    "ELECTRA, an activation that its heads lack": (
        "ElectraForMaskedLM",
        values(hidden_act="relu"),
        "hidden_act is 'relu'; qtx's electra supports only 'gelu'",
    ),
    "ELECTRA, other tables": (
        "ElectraForMaskedLM",
        values(embedding_size=5),
        r"word_embeddings.weight has shape \(11, 4\), but its config.json means \(11, 5\)",
    ),
    "ELECTRA, a width of another type": (
        "ElectraForMaskedLM",
        values(embedding_size="4"),
        "embedding_width is '4': expected int",
    ),
    "ALBERT, tables as wide as the model": (
        "AlbertModel",
        values(embedding_size=WIDTH),
        "embedding_size is hidden_size; qtx's albert supports only another width",
    ),
    "ALBERT, groups of layers": (
        "AlbertModel",
        values(num_hidden_groups=2),
        "num_hidden_groups is 2; qtx's albert supports only 1",
    ),
    "DeBERTa-v2": ("BertModel", values(model_type="deberta-v2"), "model_type is 'deberta-v2': .* disentangled"),
    "OPT without biases": ("OPTForCausalLM", values(enable_bias=False), "enable_bias is False"),
    "GPT-2, scores scaled by layer": (
        "GPT2LMHeadModel",
        values(scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx is True; qtx's gpt2 supports only False",
    ),
    "GPT-2, another order": (
        "GPT2LMHeadModel",
        values(reorder_and_upcast_attn=True),
        "reorder_and_upcast_attn is True",
    ),
    "GPT-2, a decoder of an encoder": (
        "GPT2LMHeadModel",
        values(add_cross_attention=True),
        "add_cross_attention is True; qtx's gpt2 supports only False",
    ),
    "GPT-2, a width of another type": ("GPT2Model, architecture untold", values(n_embd="8"), "width is '8': expected"),
    "Mixtral": ("MistralForCausalLM", values(model_type="mixtral"), "model_type is 'mixtral': .* mixtures of experts"),
    "Qwen 3's experts": ("Qwen3ForCausalLM", values(model_type="qwen3_moe"), "'qwen3_moe': .* mixtures of experts"),
    "Gemma 3 with images": ("Gemma3ForCausalLM", values(model_type="gemma3"), "'gemma3': the model reads images too"),
    "Qwen3-Next, linear attention": (
        "Qwen3NextForCausalLM",
        values(layer_types=["linear_attention", "full_attention"]),
        "1 of 2 layers have linear attention",
    ),
    "Qwen3-Next, layers untold": (
        "Qwen3NextForCausalLM",
        values(layer_types=None),
        "layers have linear attention",
    ),
    "Qwen3-Next, experts": ("Qwen3NextForCausalLM", values(num_experts=8), "num_experts is 8: qtx has no mixtures"),
    "gpt-oss, experts": ("GptOssForCausalLM", values(num_local_experts=32), "num_local_experts is 32: qtx has no mix"),
    "Llama, long waves by tables": (
        "LlamaForCausalLM",
        values(rope_scaling={"rope_type": "longrope", "factor": 4.0, "short_factor": [1, 1]}),
        "rope_type is 'longrope'; qtx supports only default, dynamic, linear, llama3, yarn",
    ),
    "Llama, a scaling without a factor": (
        "LlamaForCausalLM",
        values(rope_scaling={"rope_type": "linear"}),
        "rope_type 'linear' has no factor: expected a number",
    ),
    "Llama, YaRN without a factor": (
        "LlamaForCausalLM",
        values(rope_scaling={"rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.5}),
        "rope_type 'yarn' has no factor: expected a number",
    ),
    "Llama, an option that the scaling lacks": (
        "LlamaForCausalLM",
        values(rope_scaling={"rope_type": "linear", "factor": 2.0, "beta_fast": 3}),
        "rope_type 'linear' has beta_fast, which qtx does not know",
    ),
    "Llama, a factor of another type": (
        "LlamaForCausalLM",
        values(rope_scaling={"rope_type": "linear", "factor": "2"}),
        "factor is '2': expected float",
    ),
    "Llama, a scaling without options": ("LlamaForCausalLM", values(rope_scaling=[4]), "expected them by name"),
    "Llama, heads that no groups divide": (
        "LlamaForCausalLM",
        values(num_key_value_heads=3),
        "num_kv_heads is 3: expected a divisor of num_heads 2",
    ),
    "Llama, an odd share": (
        "LlamaForCausalLM",
        values(partial_rotary_factor=0.25),
        "1 of 4 dimensions of a head are turned, in pairs: expected an even number",
    ),
    "Qwen, kinds of fewer layers": (
        "Qwen2ForCausalLM, with windows",
        values(layer_types=["full_attention"]),
        "layer_types are .* expected 'full_attention' or 'sliding_attention' for each of 2 layers",
    ),
    "Qwen, layers of another kind": (
        "Qwen2ForCausalLM",
        values(layer_types=["full_attention", "chunked_attention"]),
        "layer_types are .*chunked_attention",
    ),
    "Gemma that sees both sides": (
        "Gemma3ForCausalLM",
        values(use_bidirectional_attention=True),
        "use_bidirectional_attention is True; qtx's gemma3_text supports only False",
    ),
    "Gemma 3, scaled local positions": (
        "Gemma3ForCausalLM",
        values(rope_parameters={"sliding_attention": {"rope_type": "linear", "factor": 2.0}}),
        "rope_parameters scale sliding_attention: qtx supports only 'default' there",
    ),
    "Llama, an untied head that is not there": (
        "Qwen3ForCausalLM",
        values(tie_word_embeddings=False),
        "lacks lm_head.weight",
    ),
    "Llama, a classifier": (
        "LlamaForCausalLM",
        values(architectures=["LlamaForSequenceClassification"]),
        "unknown architecture .*LlamaForSequenceClassification.* expected one of LlamaForCausalLM, LlamaModel",
    ),
    "ViT without biases": ("ViTForImageClassification", values(qkv_bias=False), "qkv_bias is False"),
    "DeiT": ("ViTForImageClassification", values(model_type="deit"), "model_type is 'deit': .* distillation token"),
    "timm, another architecture": (
        "timm's ViT",
        values(architecture="vit_base_patch16_clip_224"),
        "architecture is 'vit_base_patch16_clip_224'; qtx supports",
    ),
    "timm, distilled": ("timm's ViT", values(architecture="deit_small_distilled_patch16_224"), "architecture is"),
    "timm, a distillation token": ("timm's ViT", weights(dist_token=VECTOR), "has unexpected dist_token"),
    "timm, average pooling": ("timm's ViT", arguments(global_pool="avg"), "global_pool is 'avg'; .* only 'token'"),
    "timm, its pooling said outside": (
        "timm's ViT",
        values(global_pool="avg", model_args=TIMM["model_args"]),
        "global_pool is 'avg'",
    ),
    "timm, registers": (
        "timm's ViT",
        arguments(reg_tokens=4),
        "reg_tokens is 4; qtx's vit_small_patch16_224 supports only 0",
    ),
    "timm, no biases": ("timm's ViT", arguments(qkv_bias=False), "qkv_bias is False"),
    "timm, LayerScale": ("timm's ViT", arguments(init_values=1e-5), "init_values is 1e-05"),
    "timm, LayerScale untold": ("timm's ViT", weights(blocks__0__ls1__gamma=VECTOR), "has unexpected blocks.0.ls1"),
    "timm, an unknown argument": ("timm's ViT", arguments(act_layer="silu"), "model_args has 'act_layer'"),
    "timm, arguments no table": ("timm's ViT", values(model_args=[1]), "model_args is .* expected arguments by name"),
    "timm, no square": ("timm's ViT", arguments(img_size=[4, 9]), r"img_size is \[4, 9\]; qtx supports only squares"),
    "timm, no ratio": ("timm's ViT", arguments(mlp_ratio="4"), "mlp_ratio is 4, expected a positive number"),
    "timm, an endless ratio": ("timm's ViT", arguments(mlp_ratio=10**400), "mlp_ratio is 1000.*, expected a positive"),
    "timm, another size": ("timm's ViT", arguments(img_size=8), "pos_embed has shape .*, but its config.json means"),
    "timm, a size of another type": ("timm's ViT", arguments(depth="2"), "num_layers is '2': expected int"),
    "only pickles": (
        "BertModel",
        pickled("pytorch_model.bin"),
        "weights only in pytorch_model.bin: .* pickle runs the code .* safe_serialization=True",
    ),
    "only pickled shards": ("BertModel", pickled("pytorch_model-00001-of-00002.bin"), "safetensors alone"),
    "a shard missing": ("BertModel", without_first_shard, "there is no file .*model-00001-of-00003.safetensors"),
    "a shard shortened": (
        "BertModel",
        shortened_shard,
        "model-00002-of-00003.safetensors is not a shard of .*not a whole",
    ),
    "a tensor in no shard": ("BertModel", misplaced("model-00003-of-00003.safetensors"), "has unexpected embeddings"),
    "a shard elsewhere": ("BertModel", misplaced("../../etc/passwd"), "names '../../etc/passwd', which is outside"),
    "a shard anywhere": ("BertModel", misplaced("/etc/passwd"), "names '/etc/passwd', which is outside of it"),
    "a shard with an endless name": ("BertModel", misplaced("9" * 5000), "names '999.*'..., which is too long"),
    "a shard of another format": ("BertModel", misplaced("config.json"), "config.json is not a shard"),
    "an index of numbers": ("BertModel", index(weight_map={"a": 1}), "it has no weight_map of names to files"),
    "an index of nothing": ("BertModel", index(weight_map={}), "it has no weight_map of names to files"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_is_wrong(tmp_path, case):
    kind, change, message = CASES[case]
    KINDS[kind].write(tmp_path)
    load(tmp_path)
    change(tmp_path)
    with pytest.raises(QtxError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_untied_copies_are_refused(tmp_path):
    kind = dataclasses.replace(KINDS["BertForMaskedLM"], copies={})
    kind.write(tmp_path)
    weights(cls__predictions__decoder__bias=np.zeros(11, np.float32))(tmp_path)
    with pytest.raises(QtxError, match="decoder.bias differs from cls.predictions.bias; qtx's BERT ties them"):
        load(tmp_path)


def test_a_tensor_that_qtx_does_not_use_may_be_anything(tmp_path):
    KINDS["BertModel"].write(tmp_path)
    weights(embeddings__position_ids=POSITION_IDS[0].astype(np.complex64))(tmp_path)
    load(tmp_path)
