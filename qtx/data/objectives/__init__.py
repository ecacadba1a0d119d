"""Training objectives: what a model learns to predict. A new one is a file here and a line in `OBJECTIVES`."""

from __future__ import annotations

from qtx.data.objectives.base import MakeExample, Objective, TextObjective
from qtx.data.objectives.causal import CausalLanguageModelling
from qtx.data.objectives.classification import Classification
from qtx.data.objectives.distillation import Distillation
from qtx.data.objectives.masked import MaskedLanguageModelling
from qtx.data.objectives.multi_label_classification import MultiLabelClassification
from qtx.data.objectives.numbers import NumbersOfTexts
from qtx.data.objectives.sequence_classification import SequenceClassification
from qtx.data.objectives.sequence_regression import SequenceRegression
from qtx.foundation.errors import lookup

OBJECTIVES: dict[str, Objective] = {
    "mlm": MaskedLanguageModelling(),
    "clm": CausalLanguageModelling(),
    "classification": Classification(),
    "distill": Distillation(),
    "sequence_classification": SequenceClassification(),
    "sequence_regression": SequenceRegression(),
    "multi_label_classification": MultiLabelClassification(),
}
"""Training objectives by the name that configs use."""


def text_objectives() -> dict[str, TextObjective]:
    """Returns the objectives on text by name."""
    return {name: objective for name, objective in OBJECTIVES.items() if isinstance(objective, TextObjective)}


def text_objective(name: str) -> TextObjective:
    """Returns the objective on text of that name.

    Raises:
      QtxError: if there is no such objective.
    """
    return lookup(text_objectives(), "text objective", name)


__all__ = [
    "OBJECTIVES",
    "CausalLanguageModelling",
    "Classification",
    "Distillation",
    "MakeExample",
    "MaskedLanguageModelling",
    "MultiLabelClassification",
    "NumbersOfTexts",
    "Objective",
    "SequenceClassification",
    "SequenceRegression",
    "TextObjective",
    "text_objective",
    "text_objectives",
]
