"""Attention that lets a head do nothing: normalizers (scores to probabilities), gates, and the layer that uses them."""

from qtx.attention.config import VARIANTS, AttentionConfig, attention_text, attention_variant
from qtx.attention.conversion import converted_attention
from qtx.attention.gates import GATES, Gate
from qtx.attention.multi_head import MultiHeadAttention
from qtx.attention.normalizers import NORMALIZERS, Normalizer, Rows, Sink
from qtx.attention.parameters import Parameter
from qtx.attention.spec import AttentionSpec

__all__ = [
    "GATES",
    "NORMALIZERS",
    "VARIANTS",
    "AttentionConfig",
    "AttentionSpec",
    "Gate",
    "MultiHeadAttention",
    "Normalizer",
    "Parameter",
    "Rows",
    "Sink",
    "attention_text",
    "attention_variant",
    "converted_attention",
]
