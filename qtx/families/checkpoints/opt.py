"""The checkpoints of OPT: OPTForCausalLM, pre-LN, and post-LN with projected embeddings as OPT-350m."""

from __future__ import annotations

from qtx.families.checkpoint import Checkpoint, Field
from qtx.families.stock import Stock
from qtx.families.weights import DENSE_LAYOUT, Weight, dense_weights, layer_norm_weights
from qtx.models import OptConfig

LAYER = "model.decoder.layers.{layer}"

PROJECTIONS = [
    Weight("model.decoder.project_in.weight", "embeddings/project_in/kernel", DENSE_LAYOUT),
    Weight("model.decoder.project_out.weight", "project_out/kernel", DENSE_LAYOUT),
]


def weights(config: OptConfig) -> list[Weight]:
    """Returns the table of weights, with the projections and without the final LayerNorm where the config says so."""
    return [
        Weight("model.decoder.embed_tokens.weight", "embeddings/words/embedding"),
        Weight("model.decoder.embed_positions.weight", "embeddings/positions/embedding"),
        *dense_weights(f"{LAYER}.self_attn.q_proj", "layers/attention/query"),
        *dense_weights(f"{LAYER}.self_attn.k_proj", "layers/attention/key"),
        *dense_weights(f"{LAYER}.self_attn.v_proj", "layers/attention/value"),
        *dense_weights(f"{LAYER}.self_attn.out_proj", "layers/attention/out"),
        *layer_norm_weights(f"{LAYER}.self_attn_layer_norm", "layers/attention_norm"),
        *dense_weights(f"{LAYER}.fc1", "layers/mlp/in"),
        *dense_weights(f"{LAYER}.fc2", "layers/mlp/out"),
        *layer_norm_weights(f"{LAYER}.final_layer_norm", "layers/mlp_norm"),
        *(layer_norm_weights("model.decoder.final_layer_norm", "final_norm") if config.pre_norm else []),
        *(PROJECTIONS if config.projected else []),
    ]


CHECKPOINT = Checkpoint(
    model_types={"opt": "OPT"},
    architectures={"ForCausalLM": {}, "Model": {}},
    fields={
        "vocab_size": Field("vocab_size"),
        "hidden_size": Field("width"),
        "num_hidden_layers": Field("num_layers"),
        "num_attention_heads": Field("num_heads"),
        "ffn_dim": Field("mlp_width"),
        "max_position_embeddings": Field("max_length"),
        "dropout": Field("dropout", 0.1),
        "attention_dropout": Field("attention_dropout", 0.0),
        "init_std": Field("init_std", 0.02),
        "do_layer_norm_before": Field("pre_norm", True),
        "word_embed_proj_dim": Field("embedding_width", None),
        "activation_function": Field("activation", "relu"),
    },
    supported={
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    },
    attention_prefix=f"{LAYER}.self_attn",
    weights=weights,
    prefix="model.",
    modules=("decoder.",),
    tied={"lm_head.weight": "model.decoder.embed_tokens.weight"},
    stock=Stock(
        attention="Attention",
        made="config, layer_idx=index",
        layers="decoder.layers",
        place="self_attn",
        projections=("q_proj", "k_proj", "v_proj"),
        out="out_proj",
        dropout="self.dropout",
        classes=("Model", "ForCausalLM", "ForSequenceClassification"),
        cached=True,
    ),
)
