"""Every attention that tables of tests run over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qtx.attention import GATES, NORMALIZERS, VARIANTS, AttentionConfig, attention_variant


def _unnamed(part: str, registry: Mapping[str, type[Any]]) -> dict[str, AttentionConfig]:
    """Those of a registry that no variant has."""
    named = {type(getattr(attention, part)) for attention in VARIANTS.values()}
    names = [f"softmax,{part}={name}" for name, cls in registry.items() if cls not in named]
    return {name: attention_variant(name) for name in names}


LENGTH = 8
MECHANISMS = {
    name: attention.trained_at(LENGTH)
    for name, attention in {**VARIANTS, **_unnamed("normalizer", NORMALIZERS), **_unnamed("gate", GATES)}.items()
}
"""The named variants, and each registered normalizer and gate that none of them has, by its defaults."""
