"""The family ModernBERT."""

from __future__ import annotations

import dataclasses

from qtx.families.bert import BERT
from qtx.families.checkpoints import modern_bert
from qtx.families.vit import MEASURED
from qtx.models import ModernBertConfig

MODERN_BERT = dataclasses.replace(
    BERT,
    title="ModernBERT",
    config=ModernBertConfig,
    measured=lambda config: MEASURED,
    checkpoints=(modern_bert.CHECKPOINT,),
    vocab_size=50368,
)
