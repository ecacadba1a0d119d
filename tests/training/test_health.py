"""The warning about dead attention rows."""

from __future__ import annotations

import pytest

from qtx.attention import AttentionConfig
from qtx.attention.normalizers import ClippedSoftmax, NoAttention
from qtx.models import BertConfig
from qtx.pipeline.health import attention_warning

CLIPPED = AttentionConfig(ClippedSoftmax(alpha=4.0))
FIXED = AttentionConfig(ClippedSoftmax(gamma=-0.03, gamma_warmup_steps=100))


def config(attention, init_std=0.02):
    return BertConfig(width=256, num_heads=4, init_std=init_std, attention=attention)


@pytest.mark.parametrize(
    ("model", "named", "not_named"),
    [
        (config(CLIPPED), ["99%", "init_std=0.062 (now 0.02)", "alpha (now 4.0)", "gamma_warmup"], ["gamma nearer"]),
        (config(FIXED), ["init_std=0.062", "gamma nearer to 0 (now -0.03)"], ["alpha", "gamma_warmup_steps"]),
        (config(CLIPPED, 0.1), ["alpha (now 4.0)"], ["init_std"]),
    ],
)
def test_remedies_fit_the_model(model, named, not_named):
    text = attention_warning(0.99, model)
    assert "\n" not in text
    assert all(part in text for part in named), text
    assert not any(part in text for part in not_named), text


@pytest.mark.parametrize(
    ("share", "attention"), [(0.5, CLIPPED), (0.0, AttentionConfig()), (1.0, AttentionConfig(NoAttention()))]
)
def test_no_warning(share, attention):
    assert attention_warning(share, config(attention)) is None
