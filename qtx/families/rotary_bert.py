"""The family of BERTs with rotary positions."""

from __future__ import annotations

import dataclasses

from qtx.families.bert import BERT
from qtx.families.checkpoints import gte, nomic
from qtx.models import RotaryBertConfig

ROTARY_BERT = dataclasses.replace(
    BERT,
    title="rotary BERT",
    config=RotaryBertConfig,
    checkpoints=(nomic.CHECKPOINT, gte.CHECKPOINT, gte.OF_HUB),
    vocab_size=30528,
)
