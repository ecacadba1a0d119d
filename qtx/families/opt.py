"""The family OPT: OPTForCausalLM, the pre-LN kind, and OPT-350m's post-LN kind with projected embeddings."""

from __future__ import annotations

from qtx.families.checkpoint import Checkpoint
from qtx.families.family import Family, MeasuredSites
from qtx.families.weights import KERNEL, Weight, dense_weights, layer_norm_weights
from qtx.models import Opt, OptConfig

LAYER = "model.decoder.layers.{layer}"

PROJECTIONS = [
    Weight("model.decoder.project_in.weight", "embeddings/project_in/kernel", KERNEL),
    Weight("model.decoder.project_out.weight", "project_out/kernel", KERNEL),
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
    model_type="opt",
    architectures={"OPTForCausalLM": {}, "OPTModel": {}},
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "width",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "ffn_dim": "mlp_width",
        "max_position_embeddings": "max_length",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "init_std": "init_std",
        "do_layer_norm_before": "pre_norm",
        "word_embed_proj_dim": "embedding_width",
        "activation_function": "activation",
    },
    defaults={
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "init_std": 0.02,
        "do_layer_norm_before": True,
        "word_embed_proj_dim": None,
        "activation_function": "relu",
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
)

TENSORS = {
    "final_norm": "model.decoder.final_layer_norm",
    "layers/mlp_residual": LAYER,
    "layers/mlp/out": f"{LAYER}.fc2",
    "layers/mlp_norm": f"{LAYER}.final_layer_norm",
    "layers/attention/out": f"{LAYER}.self_attn.out_proj",
    "layers/attention_norm": f"{LAYER}.self_attn_layer_norm",
}

PRE_NORM = MeasuredSites(
    infinity_norm="layers/mlp_residual",
    kurtosis=TENSORS,
    maxima={
        "max_inf_norm": tuple(TENSORS),
        "max_ffn_inf_norm": ("layers/mlp/out",),
        "max_layer_inf_norm": ("layers/mlp_residual",),
    },
)

POST_NORM = MeasuredSites(
    infinity_norm="layers/mlp_norm",
    kurtosis={
        "layers/mlp_norm": LAYER,
        **{site: TENSORS[site] for site in ("layers/mlp/out", "layers/attention/out", "layers/attention_norm")},
    },
    norms_only={"layers/mlp_residual": f"{LAYER}.final_layer_norm.input"},
    maxima={"max_ffn_inf_norm": ("layers/mlp/out",), "max_layer_inf_norm": ("layers/mlp_norm",)},
)
"""The sites of OPT-350m's kind: a layer's output is that of its last LayerNorm, and there is no final LayerNorm."""

OPT = Family(
    title="OPT",
    module=Opt,
    config=OptConfig,
    objectives=("clm", "distill"),
    measured=lambda config: PRE_NORM if config.pre_norm else POST_NORM,
    recipe="paper_opt",
    checkpoint=CHECKPOINT,
    vocab_size=50272,
    small=lambda config, sizes: {"embedding_width": sizes["width"] // 2 if config.projected else None},
)
