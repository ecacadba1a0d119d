"""A model's config in words, for summaries and pages."""

from __future__ import annotations

from qtx.families import family_of
from qtx.models import TransformerConfig
from qtx.models.embedding import modules_of


def family_title(config: TransformerConfig) -> str:
    """Describes a model's family, e.g. `OPT (pre-LN, causal)`."""
    sees = "images" if config.reads == "images" else "causal" if config.causal else "bidirectional"
    return f"{family_of(config).title} ({'pre' if config.pre_norm else 'post'}-{config.norm}, {sees})"


def model_in_words(config: TransformerConfig) -> str:
    """Describes a model, e.g. `OPT (pre-LN, causal), 12 layers, width 768, 12 heads, feed-forward 3072`."""
    return (
        f"{family_title(config)}, {count(config.num_layers, 'layer')}, width {config.width}, "
        f"{count(config.num_heads, 'head')}, feed-forward {config.mlp_width}"
    )


def embedding_in_words(config: TransformerConfig) -> str:
    """Describes how hidden states become a text's embedding, e.g. `mean, dense to 256 (Tanh), normalized`; empty if the
    model makes none."""
    if getattr(config, "head", None) != "none" or not hasattr(config, "pooling"):
        return ""
    parts = [config.pooling, *(module.in_words() for module in modules_of(getattr(config, "modules", "")))]
    parts += ["normalized"] if getattr(config, "normalize", False) else []
    parts += [] if getattr(config, "include_prompt", True) else ["without the prompt"]
    return ", ".join(parts)


def count(number: int, thing: str) -> str:
    """Writes a number of things: `1 layer`, `12 layers`."""
    return f"{number} {thing}{'s' * (number != 1)}"
