"""This module warns when clipping leaves attention with nothing, and names remedies.

A freshly initialized narrow model attends almost uniformly, so a gamma below about -1 / T clips every probability of a
row to 0. No gradient reaches the scores of such a dead row; if nearly all rows are dead, attention never learns.
"""

from __future__ import annotations

from qtx.attention.normalizers import ClippedSoftmax, NoAttention
from qtx.foundation.numbers import percent
from qtx.models import TransformerConfig

DEAD_ROW_LIMIT = 0.5


def attention_warning(dead_row_share: float, config: TransformerConfig) -> str | None:
    """Returns a warning about a share of dead attention rows (0 to 1); None if the share is low, or attention is
    off."""
    attention = config.attention
    if dead_row_share <= DEAD_ROW_LIMIT or isinstance(attention.normalizer, NoAttention):
        return None
    remedies = []
    wider = config.width**-0.5
    if config.init_std < wider:
        remedies.append(f"config.model.init_std={wider:.2g} (now {config.init_std}), which suits width {config.width}")
    normalizer = attention.normalizer
    if isinstance(normalizer, ClippedSoftmax):
        for name in ("alpha", "alpha_visible"):
            if getattr(normalizer, name) is not None:
                remedies.append(f"a smaller config.model.attention.{name} (now {getattr(normalizer, name)})")
        if normalizer.gamma is not None:
            remedies.append(f"a config.model.attention.gamma nearer to 0 (now {normalizer.gamma})")
        if not normalizer.gamma_warmup_steps:
            remedies.append("config.model.attention.gamma_warmup_steps, to clip more and more")
    remedies = remedies or ["another config.model.attention.normalizer"]
    return (
        f"{percent(dead_row_share)} of the attention rows are dead: every probability is clipped to 0, so that they "
        f"neither attend nor learn; try {', or '.join(remedies)}"
    )
