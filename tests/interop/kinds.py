"""Every kind of checkpoint that people have, as tensors and config.json, made without the code that reads them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from qtx.attention import AttentionConfig
from qtx.attention.gates import ElementwiseGate, LinearGate
from qtx.attention.normalizers import Sink

LAYERS, WIDTH, HEADS, MLP = 2, 8, 2, 12
VOCABULARY, LENGTH, CLASSES = 11, 6, 3
NARROW = 4
IMAGE, PATCH = 6, 2
Shapes = dict[str, tuple[int, ...]]


def linear(name: str, size_in: int, size_out: int) -> Shapes:
    return {f"{name}.weight": (size_out, size_in), f"{name}.bias": (size_out,)}


def norm(name: str, weight: str = "weight", bias: str = "bias", width: int = WIDTH) -> Shapes:
    return {f"{name}.{weight}": (width,), f"{name}.{bias}": (width,)}


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


def roberta_encoder(prefix: str, types: int = 1) -> Shapes:
    """A BERT's, whose first position has the third row; the published models have one token type."""
    return bert_encoder(prefix) | {
        f"{prefix}embeddings.position_embeddings.weight": (LENGTH + 2, WIDTH),
        f"{prefix}embeddings.token_type_embeddings.weight": (types, WIDTH),
    }


def without_bias(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.endswith(".bias")}


def mpnet_encoder(prefix: str) -> Shapes:
    shapes = {
        f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        f"{prefix}embeddings.position_embeddings.weight": (LENGTH + 2, WIDTH),
        f"{prefix}encoder.relative_attention_bias.weight": (32, HEADS),
        **norm(f"{prefix}embeddings.LayerNorm"),
    }
    for layer in (f"{prefix}encoder.layer.{i}" for i in range(LAYERS)):
        for name in "qkvo":
            shapes |= linear(f"{layer}.attention.attn.{name}", WIDTH, WIDTH)
        shapes |= norm(f"{layer}.attention.LayerNorm") | norm(f"{layer}.output.LayerNorm")
        shapes |= linear(f"{layer}.intermediate.dense", WIDTH, MLP) | linear(f"{layer}.output.dense", MLP, WIDTH)
    return shapes


def nomic_encoder(prefix: str) -> Shapes:
    shapes = {
        f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        f"{prefix}embeddings.token_type_embeddings.weight": (2, WIDTH),
        **norm(f"{prefix}emb_ln"),
    }
    for layer in (f"{prefix}encoder.layers.{i}" for i in range(LAYERS)):
        shapes |= {f"{layer}.attn.Wqkv.weight": (3 * WIDTH, WIDTH), f"{layer}.attn.out_proj.weight": (WIDTH, WIDTH)}
        shapes |= {f"{layer}.mlp.{name}.weight": (MLP, WIDTH) for name in ("fc11", "fc12")}
        shapes |= {f"{layer}.mlp.fc2.weight": (WIDTH, MLP)} | norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
    return shapes


def gte_encoder(prefix: str) -> Shapes:
    """Without token types, as gte-base-en-v1.5."""
    shapes = {f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, WIDTH)} | norm(f"{prefix}embeddings.LayerNorm")
    for layer in (f"{prefix}encoder.layer.{i}" for i in range(LAYERS)):
        shapes |= linear(f"{layer}.attention.qkv_proj", WIDTH, 3 * WIDTH)
        shapes |= linear(f"{layer}.attention.o_proj", WIDTH, WIDTH)
        shapes |= norm(f"{layer}.attn_ln") | norm(f"{layer}.mlp_ln") | linear(f"{layer}.mlp.down_proj", MLP, WIDTH)
        shapes |= {f"{layer}.mlp.up_gate_proj.weight": (2 * MLP, WIDTH)}
    return shapes


def modern_bert_encoder(prefix: str) -> Shapes:
    shapes = {f"{prefix}embeddings.tok_embeddings.weight": (VOCABULARY, WIDTH)}
    shapes |= norm(f"{prefix}embeddings.norm") | norm(f"{prefix}final_norm") | norm(f"{prefix}layers.1.attn_norm")
    for layer in (f"{prefix}layers.{i}" for i in range(LAYERS)):
        shapes |= {f"{layer}.attn.Wqkv.weight": (3 * WIDTH, WIDTH), f"{layer}.attn.Wo.weight": (WIDTH, WIDTH)}
        shapes |= {f"{layer}.mlp.Wi.weight": (2 * MLP, WIDTH), f"{layer}.mlp.Wo.weight": (WIDTH, MLP)}
        shapes |= norm(f"{layer}.mlp_norm")
    return without_bias(shapes)


def distilbert_encoder(prefix: str) -> Shapes:
    shapes = {
        f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        f"{prefix}embeddings.position_embeddings.weight": (LENGTH, WIDTH),
        **norm(f"{prefix}embeddings.LayerNorm"),
    }
    for layer in (f"{prefix}transformer.layer.{i}" for i in range(LAYERS)):
        for name in ("q_lin", "k_lin", "v_lin", "out_lin"):
            shapes |= linear(f"{layer}.attention.{name}", WIDTH, WIDTH)
        shapes |= norm(f"{layer}.sa_layer_norm") | norm(f"{layer}.output_layer_norm")
        shapes |= linear(f"{layer}.ffn.lin1", WIDTH, MLP) | linear(f"{layer}.ffn.lin2", MLP, WIDTH)
    return shapes


def electra_encoder(prefix: str, embedding: int = NARROW) -> Shapes:
    """A BERT's on narrower tables, unless they are as wide."""
    shapes = bert_encoder(prefix)
    if embedding == WIDTH:
        return shapes
    tables = {name: (x[0], embedding) for name, x in shapes.items() if name.endswith("_embeddings.weight")}
    norms = norm(f"{prefix}embeddings.LayerNorm", width=embedding)
    return shapes | tables | norms | linear(f"{prefix}embeddings_project", embedding, WIDTH)


def albert_encoder(prefix: str) -> Shapes:
    """Narrower tables, and one layer for all."""
    shapes = {
        f"{prefix}embeddings.word_embeddings.weight": (VOCABULARY, NARROW),
        f"{prefix}embeddings.position_embeddings.weight": (LENGTH, NARROW),
        f"{prefix}embeddings.token_type_embeddings.weight": (2, NARROW),
        **norm(f"{prefix}embeddings.LayerNorm", width=NARROW),
        **linear(f"{prefix}encoder.embedding_hidden_mapping_in", NARROW, WIDTH),
    }
    layer = f"{prefix}encoder.albert_layer_groups.0.albert_layers.0"
    for name in ("query", "key", "value", "dense"):
        shapes |= linear(f"{layer}.attention.{name}", WIDTH, WIDTH)
    shapes |= norm(f"{layer}.attention.LayerNorm") | norm(f"{layer}.full_layer_layer_norm")
    return shapes | linear(f"{layer}.ffn", WIDTH, MLP) | linear(f"{layer}.ffn_output", MLP, WIDTH)


def opt_decoder(prefix: str, pre_norm: bool = True, embedding: int = WIDTH) -> Shapes:
    shapes = {
        f"{prefix}decoder.embed_tokens.weight": (VOCABULARY, embedding),
        f"{prefix}decoder.embed_positions.weight": (LENGTH + 2, WIDTH),
    }
    if pre_norm:
        shapes |= norm(f"{prefix}decoder.final_layer_norm")
    if embedding != WIDTH:
        shapes[f"{prefix}decoder.project_in.weight"] = (WIDTH, embedding)
        shapes[f"{prefix}decoder.project_out.weight"] = (embedding, WIDTH)
    for layer in (f"{prefix}decoder.layers.{i}" for i in range(LAYERS)):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{name}", WIDTH, WIDTH)
        shapes |= norm(f"{layer}.self_attn_layer_norm") | norm(f"{layer}.final_layer_norm")
        shapes |= linear(f"{layer}.fc1", WIDTH, MLP) | linear(f"{layer}.fc2", MLP, WIDTH)
    return shapes


def gpt2_decoder(prefix: str, mlp: int = 4 * WIDTH) -> Shapes:
    """Its layers are no `linear`: their weights are [in, out]."""
    shapes = {f"{prefix}wte.weight": (VOCABULARY, WIDTH), f"{prefix}wpe.weight": (LENGTH, WIDTH)}
    shapes |= norm(f"{prefix}ln_f")
    layers = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
    layers |= {"mlp.c_fc": (WIDTH, mlp), "mlp.c_proj": (mlp, WIDTH)}
    for layer in (f"{prefix}h.{i}" for i in range(LAYERS)):
        shapes |= norm(f"{layer}.ln_1") | norm(f"{layer}.ln_2")
        for name, shape in layers.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[1:]}
    return shapes


def rms(name: str, width: int = WIDTH) -> Shapes:
    return {f"{name}.weight": (width,)}


def llama_decoder(
    prefix: str,
    kv_heads: int = 1,
    head: int = WIDTH // HEADS,
    biases: tuple[str, ...] = (),
    head_norms: bool = False,
    branch_norms: bool = False,
    gated: bool = False,
) -> Shapes:
    """Of layers with biases in the projections of those names; with norms of queries and keys, of branches, and with
    gates beside the queries."""
    shapes = {f"{prefix}embed_tokens.weight": (VOCABULARY, WIDTH)} | rms(f"{prefix}norm")
    norms = ("input_layernorm", "post_attention_layernorm")
    norms += ("pre_feedforward_layernorm", "post_feedforward_layernorm") if branch_norms else ()
    width = HEADS * head
    layers = {
        "self_attn.q_proj": (WIDTH, 2 * width if gated else width),
        "self_attn.k_proj": (WIDTH, kv_heads * head),
        "self_attn.v_proj": (WIDTH, kv_heads * head),
        "self_attn.o_proj": (width, WIDTH),
        "mlp.gate_proj": (WIDTH, MLP),
        "mlp.up_proj": (WIDTH, MLP),
        "mlp.down_proj": (MLP, WIDTH),
    }
    for layer in (f"{prefix}layers.{i}" for i in range(LAYERS)):
        for name in norms:
            shapes |= rms(f"{layer}.{name}")
        if head_norms:
            shapes |= rms(f"{layer}.self_attn.q_norm", head) | rms(f"{layer}.self_attn.k_norm", head)
        for name, sizes in layers.items():
            own = linear(f"{layer}.{name}", *sizes)
            shapes |= own if name.rpartition(".")[2] in biases else without_bias(own)
    return shapes


def vit_encoder(prefix: str) -> Shapes:
    shapes = {
        f"{prefix}embeddings.cls_token": (1, 1, WIDTH),
        f"{prefix}embeddings.position_embeddings": (1, (IMAGE // PATCH) ** 2 + 1, WIDTH),
        f"{prefix}embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        f"{prefix}embeddings.patch_embeddings.projection.bias": (WIDTH,),
    }
    for layer in (f"{prefix}encoder.layer.{i}" for i in range(LAYERS)):
        for name in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= linear(f"{layer}.attention.{name}", WIDTH, WIDTH)
        shapes |= linear(f"{layer}.intermediate.dense", WIDTH, MLP) | linear(f"{layer}.output.dense", MLP, WIDTH)
        shapes |= norm(f"{layer}.layernorm_before") | norm(f"{layer}.layernorm_after")
    return shapes | norm(f"{prefix}layernorm")


def timm_vit(head: bool = True) -> Shapes:
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, (IMAGE // PATCH) ** 2 + 1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
    }
    for block in (f"blocks.{i}" for i in range(LAYERS)):
        shapes |= norm(f"{block}.norm1") | norm(f"{block}.norm2")
        shapes |= linear(f"{block}.attn.qkv", WIDTH, 3 * WIDTH) | linear(f"{block}.attn.proj", WIDTH, WIDTH)
        shapes |= linear(f"{block}.mlp.fc1", WIDTH, MLP) | linear(f"{block}.mlp.fc2", MLP, WIDTH)
    return shapes | norm("norm") | (linear("head", WIDTH, CLASSES) if head else {})


def mlm_head(weight: str = "weight", bias: str = "bias") -> Shapes:
    head = "cls.predictions.transform"
    return (
        linear(f"{head}.dense", WIDTH, WIDTH)
        | norm(f"{head}.LayerNorm", weight, bias)
        | {"cls.predictions.bias": (VOCABULARY,)}
    )


def alphas(attention: str) -> Shapes:
    """The official code's linear gate, one predictor per head and layer."""
    heads = [f"{attention.format(layer)}.alpha.{head}" for layer in range(LAYERS) for head in range(HEADS)]
    return {name: shape for head in heads for name, shape in linear(head, WIDTH // HEADS, 1).items()}


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
ROBERTA = BERT | {"model_type": "roberta", "max_position_embeddings": LENGTH + 2, "pad_token_id": 1}
XLM_R = ROBERTA | {"model_type": "xlm-roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5}
MPNET = ROBERTA | {"model_type": "mpnet", "relative_attention_num_buckets": 32, "layer_norm_eps": 1e-5}
NOMIC = BERT | {"model_type": "nomic_bert", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
OF_NOMICS_HUB = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertModel"],
    "activation_function": "swiglu",
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": MLP,
    "n_positions": LENGTH,
    "layer_norm_epsilon": 1e-12,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_scale_base": None,
    "resid_pdrop": 0.0,
    "prenorm": False,
    "qkv_proj_bias": False,
}
GTE = BERT | {"model_type": "new", "rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0}}
GTE |= {"type_vocab_size": 0, "pack_qkv": True, "logn_attention_scale": False, "position_embedding_type": "rope"}
MODERN_BERT = BERT | {
    "model_type": "modernbert",
    "global_attn_every_n_layers": 2,
    "local_attention": 4,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "norm_eps": 1e-5,
}
DISTILBERT = {
    "activation": "gelu",
    "attention_dropout": 0.1,
    "dim": WIDTH,
    "dropout": 0.1,
    "hidden_dim": MLP,
    "initializer_range": 0.02,
    "max_position_embeddings": LENGTH,
    "model_type": "distilbert",
    "n_heads": HEADS,
    "n_layers": LAYERS,
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
    "vocab_size": VOCABULARY,
}
ELECTRA = BERT | {
    "model_type": "electra",
    "embedding_size": NARROW,
    "summary_activation": "gelu",
    "summary_last_dropout": 0.1,
    "summary_type": "first",
    "summary_use_proj": True,
}
ALBERT = BERT | {
    "model_type": "albert",
    "attention_probs_dropout_prob": 0,
    "bos_token_id": 2,
    "classifier_dropout_prob": 0.1,
    "down_scale_factor": 1,
    "embedding_size": NARROW,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0,
    "inner_group_num": 1,
    "num_hidden_groups": 1,
}
OPT = {
    "model_type": "opt",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "ffn_dim": MLP,
    "max_position_embeddings": LENGTH,
    "prefix": "</s>",
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": LENGTH,
    "n_ctx": LENGTH,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "summary_type": "cls_index",
    "eos_token_id": 10,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 1,
    "intermediate_size": MLP,
    "max_position_embeddings": LENGTH,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "use_cache": True,
    "transformers_version": "4.48.0",
}
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 3}
QWEN2 = LLAMA | {"model_type": "qwen2", "use_sliding_window": False, "max_window_layers": 1, "sliding_window": 4}
QWEN3 = QWEN2 | {"model_type": "qwen3", "head_dim": 6, "attention_bias": False}
QWEN3_NEXT = LLAMA | {
    "model_type": "qwen3_next",
    "head_dim": 8,
    "partial_rotary_factor": 0.5,
    "num_experts": 0,
    "layer_types": ["full_attention"] * LAYERS,
}
SMOLLM3 = LLAMA | {"model_type": "smollm3", "no_rope_layer_interval": 2, "tie_word_embeddings": True}
GEMMA = LLAMA | {"model_type": "gemma", "head_dim": 6, "hidden_activation": None, "hidden_act": "gelu"}
GEMMA2 = GEMMA | {"model_type": "gemma2", "sliding_window": 3, "query_pre_attn_scalar": 9}
GEMMA2 |= {"hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
GEMMA3 = {key: x for key, x in GEMMA2.items() if not key.endswith("softcapping") and key != "hidden_act"}
GEMMA3 |= {"model_type": "gemma3_text", "sliding_window_pattern": 2, "rope_local_base_freq": 30.0}
GPT_OSS = LLAMA | {
    "model_type": "gpt_oss",
    "head_dim": 4,
    "num_local_experts": 0,
    "attention_bias": True,
    "sliding_window": 2,
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4, "truncate": False},
}
VIT = {
    "model_type": "vit",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": MLP,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "encoder_stride": 16,
}
TIMM = {
    "architecture": "vit_small_patch16_224",
    "num_classes": CLASSES,
    "num_features": WIDTH,
    "global_pool": "token",
    "pretrained_cfg": {"tag": "augreg_in21k", "input_size": [3, IMAGE, IMAGE], "first_conv": "patch_embed.proj"},
    "model_args": {
        "img_size": [IMAGE, IMAGE],
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": LAYERS,
        "num_heads": HEADS,
        "mlp_ratio": MLP / WIDTH,
        "drop_path_rate": 0.1,
    },
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
      unused: weights that qtx does not compute with.
      unused_rows: names of tables to their number of first rows that qtx does not compute with.
      made: how many parameters qtx has that no tensor holds: those of layers that lack what the others have, and rows
        of positions that are padding's.
    """

    config: dict[str, Any]
    shapes: Shapes
    fields: dict[str, Any]
    copies: dict[str, str] = dataclasses.field(default_factory=dict)
    others: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    unused_rows: dict[str, int] = dataclasses.field(default_factory=dict)
    made: int = 0

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


def shard(folder: Path, number: int = 3) -> None:
    """Splits a folder's weights as save_pretrained does."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-{i % number + 1:05}-of-{number:05}.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: x for name, x in tensors.items() if places[name] == file}, folder / file)
    values = {"metadata": {"total_size": sum(x.nbytes for x in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(values))


LM_HEAD = {"lm_head.weight": (VOCABULARY, WIDTH)}
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
        unused=tuple(linear("pooler.dense", WIDTH, WIDTH)),
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
        unused=(*linear("bert.pooler.dense", WIDTH, WIDTH), *linear("cls.seq_relationship", WIDTH, 2)),
    ),
    "BertForSequenceClassification": Kind(
        architectures(BERT, "BertForSequenceClassification") | {"classifier_dropout": None, "id2label": {"0": "bad"}},
        bert_encoder("bert.") | linear("bert.pooler.dense", WIDTH, WIDTH) | linear("classifier", WIDTH, CLASSES),
        {"head": "classification", "num_classes": CLASSES},
        others={"bert.embeddings.position_ids": POSITION_IDS},
    ),
    "BertForTokenClassification": Kind(
        architectures(BERT, "BertForTokenClassification"),
        bert_encoder("bert.") | linear("classifier", WIDTH, CLASSES),
        {"head": "token_classification", "num_classes": CLASSES},
    ),
    "BertForQuestionAnswering, architecture untold": Kind(
        BERT, bert_encoder("bert.") | linear("qa_outputs", WIDTH, 2), {"head": "span", "num_classes": None}
    ),
    "BertModel, called BertForMaskedLM": Kind(
        architectures(BERT, "BertForMaskedLM"), bert_encoder(""), {"head": "none"}
    ),
    "BertForMaskedLM, of the paper's code": Kind(
        architectures(BERT, "BertForMaskedLM"),
        bert_encoder("bert.") | mlm_head() | alphas("bert.encoder.layer.{}.attention.self"),
        {"head": "mlm", "attention": AttentionConfig(gate=LinearGate())},
        DECODER,
    ),
    "RobertaForMaskedLM": Kind(
        architectures(ROBERTA, "RobertaForMaskedLM"),
        roberta_encoder("roberta.", types=2)
        | linear("lm_head.dense", WIDTH, WIDTH)
        | norm("lm_head.layer_norm")
        | {"lm_head.bias": (VOCABULARY,)},
        {"head": "mlm", "max_length": LENGTH},
        {
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        unused_rows={"roberta.embeddings.position_embeddings.weight": 2},
    ),
    "XLMRobertaForSequenceClassification": Kind(
        architectures(XLM_R, "XLMRobertaForSequenceClassification")
        | {"id2label": {str(i): f"LABEL_{i}" for i in range(CLASSES)}},
        roberta_encoder("roberta.")
        | linear("classifier.dense", WIDTH, WIDTH)
        | linear("classifier.out_proj", WIDTH, CLASSES),
        {"head": "classification", "num_classes": CLASSES, "layer_norm_epsilon": 1e-5, "type_vocab_size": 1},
        others={"roberta.embeddings.position_ids": np.arange(LENGTH + 2)[None]},
        unused_rows={"roberta.embeddings.position_embeddings.weight": 2},
    ),
    "XLMRobertaModel": Kind(
        architectures(XLM_R, "XLMRobertaModel"),
        roberta_encoder("") | linear("pooler.dense", WIDTH, WIDTH),
        {"head": "none", "max_length": LENGTH},
        unused=tuple(linear("pooler.dense", WIDTH, WIDTH)),
        unused_rows={"embeddings.position_embeddings.weight": 2},
    ),
    "MPNetForMaskedLM": Kind(
        architectures(MPNET, "MPNetForMaskedLM"),
        mpnet_encoder("mpnet.")
        | linear("lm_head.dense", WIDTH, WIDTH)
        | norm("lm_head.layer_norm")
        | {"lm_head.bias": (VOCABULARY,)},
        {"head": "mlm", "max_length": LENGTH, "relative_buckets": 32, "type_vocab_size": 0},
        {"lm_head.decoder.weight": "mpnet.embeddings.word_embeddings.weight", "lm_head.decoder.bias": "lm_head.bias"},
        unused_rows={"mpnet.embeddings.position_embeddings.weight": 2},
    ),
    "MPNetModel, called MPNetForMaskedLM": Kind(
        architectures(MPNET, "MPNetForMaskedLM"),
        mpnet_encoder("") | linear("pooler.dense", WIDTH, WIDTH),
        {"head": "none"},
        others={"embeddings.position_ids": np.arange(LENGTH + 2)[None]},
        unused=tuple(linear("pooler.dense", WIDTH, WIDTH)),
        unused_rows={"embeddings.position_embeddings.weight": 2},
    ),
    "NomicBertForSequenceClassification": Kind(
        architectures(NOMIC, "NomicBertForSequenceClassification"),
        nomic_encoder("nomic_bert.")
        | linear("nomic_bert.pooler.dense", WIDTH, WIDTH)
        | linear("classifier", WIDTH, CLASSES),
        {"head": "classification", "num_classes": CLASSES, "rotary_base": 500.0},
    ),
    "NomicBertModel, of the hub": Kind(
        OF_NOMICS_HUB, nomic_encoder(""), {"head": "none", "rotary_base": 1000, "mlp_width": MLP, "max_length": LENGTH}
    ),
    "GteModel, of the hub": Kind(
        architectures(GTE | {"type_vocab_size": 1}, "NewModel"),
        gte_encoder("") | {"embeddings.token_type_embeddings.weight": (1, WIDTH)},
        {"rotary_base": 20000, "rotary_factor": 8.0, "type_vocab_size": 1},
    ),
    "GteModel, of the hub, without token types": Kind(
        architectures(GTE, "NewModel"), gte_encoder(""), {"type_vocab_size": 0, "activation": "gelu"}
    ),
    "GteForMaskedLM": Kind(
        architectures(GTE | {"model_type": "gte", "rope_scaling": None, "type_vocab_size": 1}, "GteForMaskedLM"),
        gte_encoder("gte.")
        | {"gte.embeddings.token_type_embeddings.weight": (1, WIDTH)}
        | linear("lm_head.dense", WIDTH, WIDTH)
        | norm("lm_head.norm")
        | {"lm_head.decoder.bias": (VOCABULARY,)},
        {"head": "mlm", "rotary_factor": 1.0},
        {"lm_head.decoder.weight": "gte.embeddings.word_embeddings.weight"},
    ),
    "ModernBertForTokenClassification": Kind(
        architectures(MODERN_BERT, "ModernBertForTokenClassification"),
        modern_bert_encoder("model.")
        | {"head.dense.weight": (WIDTH, WIDTH), "head.norm.weight": (WIDTH,)}
        | linear("classifier", WIDTH, CLASSES),
        {"head": "token_classification", "local_distance": 2, "global_every": 2, "max_length": LENGTH},
        made=WIDTH,
    ),
    "ModernBertModel": Kind(
        architectures(MODERN_BERT, "ModernBertModel"), modern_bert_encoder(""), {"head": "none"}, made=WIDTH
    ),
    "DistilBertForMaskedLM": Kind(
        architectures(DISTILBERT, "DistilBertForMaskedLM"),
        distilbert_encoder("distilbert.")
        | linear("vocab_transform", WIDTH, WIDTH)
        | norm("vocab_layer_norm")
        | {"vocab_projector.bias": (VOCABULARY,)},
        {"head": "mlm", "type_vocab_size": 0, "layer_norm_epsilon": 1e-12},
        {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ),
    "DistilBertForSequenceClassification": Kind(
        architectures(DISTILBERT, "DistilBertForSequenceClassification") | {"sinusoidal_pos_embds": True},
        distilbert_encoder("distilbert.")
        | linear("pre_classifier", WIDTH, WIDTH)
        | linear("classifier", WIDTH, CLASSES),
        {"head": "classification", "num_classes": CLASSES, "pooler_activation": "relu"},
    ),
    "DistilBertModel": Kind(architectures(DISTILBERT, "DistilBertModel"), distilbert_encoder(""), {"head": "none"}),
    "DistilBertForTokenClassification, architecture untold": Kind(
        DISTILBERT,
        distilbert_encoder("distilbert.") | linear("classifier", WIDTH, CLASSES),
        {"head": "token_classification", "num_classes": CLASSES},
    ),
    "ElectraForMaskedLM": Kind(
        architectures(ELECTRA, "ElectraForMaskedLM"),
        electra_encoder("electra.")
        | linear("generator_predictions.dense", WIDTH, NARROW)
        | norm("generator_predictions.LayerNorm", width=NARROW)
        | {"generator_lm_head.bias": (VOCABULARY,)},
        {"head": "mlm", "embedding_width": NARROW},
        {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ),
    "ElectraForPreTraining": Kind(
        architectures(ELECTRA, "ElectraForPreTraining"),
        electra_encoder("electra.")
        | linear("discriminator_predictions.dense", WIDTH, WIDTH)
        | linear("discriminator_predictions.dense_prediction", WIDTH, 1),
        {"head": "none", "embedding_width": NARROW},
        others={"electra.embeddings.position_ids": POSITION_IDS},
        unused=(
            *linear("discriminator_predictions.dense", WIDTH, WIDTH),
            *linear("discriminator_predictions.dense_prediction", WIDTH, 1),
        ),
    ),
    "ElectraModel": Kind(architectures(ELECTRA, "ElectraModel"), electra_encoder(""), {"head": "none"}),
    "ElectraForSequenceClassification": Kind(
        architectures(ELECTRA, "ElectraForSequenceClassification")
        | {"embedding_size": WIDTH, "id2label": {str(i): f"LABEL_{i}" for i in range(CLASSES)}},
        electra_encoder("electra.", embedding=WIDTH)
        | linear("classifier.dense", WIDTH, WIDTH)
        | linear("classifier.out_proj", WIDTH, CLASSES),
        {
            "head": "classification",
            "num_classes": CLASSES,
            "embedding_width": None,
            "pooler_activation": "gelu",
        },
    ),
    "AlbertForMaskedLM": Kind(
        architectures(ALBERT, "AlbertForMaskedLM"),
        albert_encoder("albert.")
        | linear("predictions.dense", WIDTH, NARROW)
        | norm("predictions.LayerNorm", width=NARROW)
        | {"predictions.bias": (VOCABULARY,)},
        {"head": "mlm", "embedding_width": NARROW, "shared_layers": True, "activation": "gelu_new"},
        {
            "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
            "predictions.decoder.bias": "predictions.bias",
        },
    ),
    "AlbertModel": Kind(
        architectures(ALBERT, "AlbertModel"),
        albert_encoder("") | linear("pooler", WIDTH, WIDTH),
        {"head": "none", "num_layers": LAYERS, "dropout": 0.0},
        unused=tuple(linear("pooler", WIDTH, WIDTH)),
    ),
    "AlbertForSequenceClassification, architecture untold": Kind(
        ALBERT | {"id2label": {str(i): f"LABEL_{i}" for i in range(CLASSES)}},
        albert_encoder("albert.") | linear("albert.pooler", WIDTH, WIDTH) | linear("classifier", WIDTH, CLASSES),
        {"head": "classification", "num_classes": CLASSES, "pooler_activation": "tanh"},
    ),
    "OPTForCausalLM": Kind(
        architectures(OPT, "OPTForCausalLM"),
        opt_decoder("model."),
        {"pre_norm": True},
        {"lm_head.weight": "model.decoder.embed_tokens.weight"},
    ),
    "OPTForCausalLM, as published": Kind(architectures(OPT, "OPTForCausalLM"), opt_decoder(""), {"pre_norm": True}),
    "OPTForCausalLM, post-LN": Kind(
        architectures(OPT, "OPTForCausalLM") | {"do_layer_norm_before": False, "word_embed_proj_dim": 4},
        opt_decoder("model.", pre_norm=False, embedding=4),
        {"pre_norm": False, "embedding_width": 4},
    ),
    "OPTForCausalLM, of the paper's code": Kind(
        architectures(OPT, "OPTForCausalLM"),
        opt_decoder("model.") | alphas("model.decoder.layers.{}.self_attn"),
        {"attention": AttentionConfig(gate=LinearGate())},
    ),
    "GPT2LMHeadModel": Kind(
        architectures(GPT2 | {"n_inner": MLP, "layer_norm_epsilon": 1e-6}, "GPT2LMHeadModel"),
        gpt2_decoder("transformer.", MLP),
        {
            "mlp_width": MLP,
            "max_length": LENGTH,
            "pre_norm": True,
            "activation": "gelu_new",
            "layer_norm_epsilon": 1e-6,
        },
        {"lm_head.weight": "transformer.wte.weight"},
        made=2 * WIDTH,
    ),
    "GPT2LMHeadModel, as published": Kind(
        architectures(GPT2, "GPT2LMHeadModel"),
        gpt2_decoder(""),
        {"mlp_width": 4 * WIDTH},
        others={
            **{f"h.{i}.attn.bias": np.tri(LENGTH, dtype=np.float32)[None, None] for i in range(LAYERS)},
            **{f"h.{i}.attn.masked_bias": np.array(-1e4, np.float32) for i in range(LAYERS)},
        },
        made=2 * WIDTH,
    ),
    "GPT2Model, architecture untold": Kind(GPT2, gpt2_decoder("transformer."), {"width": WIDTH}, made=2 * WIDTH),
    "LlamaForCausalLM": Kind(
        architectures(LLAMA, "LlamaForCausalLM"),
        llama_decoder("model.") | LM_HEAD,
        {"head": "clm", "tied": False, "num_kv_heads": 1, "rotary_base": 500.0, "activation": "silu"},
    ),
    "LlamaForCausalLM, tied": Kind(
        architectures(LLAMA | {"tie_word_embeddings": True}, "LlamaForCausalLM"),
        llama_decoder("model."),
        {"head": "clm", "tied": True},
        {"lm_head.weight": "model.embed_tokens.weight"},
    ),
    "LlamaForCausalLM, with rotary buffers": Kind(
        architectures(LLAMA | {"attention_bias": True, "mlp_bias": True}, "LlamaForCausalLM"),
        llama_decoder("model.", biases=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
        | LM_HEAD,
        {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True, "mlp_out_bias": True},
        others={
            f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.array([1, 0.1], np.float32) for i in range(LAYERS)
        },
    ),
    "LlamaModel": Kind(architectures(LLAMA, "LlamaModel"), llama_decoder(""), {"head": "none"}),
    "MistralForCausalLM": Kind(
        architectures(MISTRAL, "MistralForCausalLM"),
        llama_decoder("model.") | LM_HEAD,
        {"window": 3, "global_layers": ()},
    ),
    "Qwen2ForCausalLM": Kind(
        architectures(QWEN2, "Qwen2ForCausalLM"),
        llama_decoder("model.", biases=("q_proj", "k_proj", "v_proj")) | LM_HEAD,
        {"attention_bias": True, "attention_out_bias": False, "window": None},
    ),
    "Qwen2ForCausalLM, with windows": Kind(
        architectures(QWEN2 | {"use_sliding_window": True, "tie_word_embeddings": True}, "Qwen2ForCausalLM"),
        llama_decoder("model.", biases=("q_proj", "k_proj", "v_proj")),
        {"window": 4, "global_layers": (0,), "tied": True},
    ),
    "Qwen3ForCausalLM": Kind(
        architectures(QWEN3 | {"tie_word_embeddings": True}, "Qwen3ForCausalLM"),
        llama_decoder("model.", head=6, head_norms=True),
        {"qk_norm": True, "head_dim": 6, "tied": True},
    ),
    "Qwen3NextForCausalLM": Kind(
        architectures(QWEN3_NEXT, "Qwen3NextForCausalLM"),
        llama_decoder("model.", head=8, head_norms=True, gated=True) | LM_HEAD,
        {
            "qk_norm": True,
            "norm_offset": 1.0,
            "rotary_share": 0.5,
            "attention": AttentionConfig(gate=ElementwiseGate()),
        },
    ),
    "SmolLM3ForCausalLM": Kind(
        architectures(SMOLLM3, "SmolLM3ForCausalLM"),
        llama_decoder("model."),
        {"unrotated_layers": (1,), "window": None, "tied": True},
    ),
    "GemmaForCausalLM": Kind(
        architectures(GEMMA, "GemmaForCausalLM"),
        llama_decoder("model.", head=6),
        {"activation": "gelu_pytorch_tanh", "norm_offset": 1.0, "tied": True, "embedding_scale": WIDTH**0.5},
    ),
    "Gemma2ForCausalLM": Kind(
        architectures(GEMMA2, "Gemma2ForCausalLM"),
        llama_decoder("model.", head=6, branch_norms=True),
        {"branch_norms": True, "score_cap": 5.0, "logit_cap": 3.0, "score_dim": 9, "window": 3, "global_layers": (1,)},
    ),
    "Gemma3ForCausalLM": Kind(
        architectures(GEMMA3, "Gemma3ForCausalLM"),
        llama_decoder("model.", head=6, branch_norms=True, head_norms=True),
        {"qk_norm": True, "local_base": 30.0, "rotary_base": 500.0, "global_layers": (1,), "score_cap": None},
    ),
    "Gemma3TextModel": Kind(
        architectures(GEMMA3, "Gemma3TextModel"),
        llama_decoder("", head=6, branch_norms=True, head_norms=True),
        {"head": "none", "window": 3},
    ),
    "GptOssForCausalLM": Kind(
        architectures(GPT_OSS, "GptOssForCausalLM"),
        llama_decoder("model.", biases=("q_proj", "k_proj", "v_proj", "o_proj"))
        | LM_HEAD
        | {f"model.layers.{i}.self_attn.sinks": (HEADS,) for i in range(LAYERS)},
        {
            "rotary_scaling": "yarn,factor=4.0,original=4,whole=False",
            "global_layers": (1,),
            "attention": AttentionConfig(Sink()),
        },
    ),
    "ViTForImageClassification": Kind(
        architectures(VIT, "ViTForImageClassification"),
        vit_encoder("vit.") | linear("classifier", WIDTH, CLASSES),
        {"head": "classification", "num_classes": CLASSES, "layer_norm_epsilon": 1e-12},
    ),
    "ViTModel": Kind(
        architectures(VIT, "ViTModel"),
        vit_encoder("") | linear("pooler.dense", WIDTH, WIDTH),
        {"head": "none", "num_classes": None},
        unused=tuple(linear("pooler.dense", WIDTH, WIDTH)),
    ),
    "ViTModel, without its pooler, architecture untold": Kind(VIT, vit_encoder(""), {"head": "none"}),
    "timm's ViT": Kind(
        TIMM,
        timm_vit(),
        {"head": "classification", "num_classes": CLASSES, "image_size": IMAGE, "layer_norm_epsilon": 1e-6},
    ),
    "timm's ViT, without a classifier": Kind(
        TIMM | {"num_classes": 0}, timm_vit(head=False), {"head": "none", "num_classes": None}
    ),
}
