"""Training objectives: what a model learns. A new one is a file here and a line in `OBJECTIVES`."""

from __future__ import annotations

from collections.abc import Callable

from qtx.data.objectives.base import MakeExample, Objective, TextObjective
from qtx.data.objectives.causal import CausalLanguageModelling
from qtx.data.objectives.choices import Choosing
from qtx.data.objectives.classification import Classification
from qtx.data.objectives.distillation import Distillation
from qtx.data.objectives.masked import MaskedLanguageModelling
from qtx.data.objectives.multi_label_classification import MultiLabelClassification
from qtx.data.objectives.numbers import NumbersOfTexts
from qtx.data.objectives.question_answering import QuestionAnswering
from qtx.data.objectives.sequence_classification import SequenceClassification
from qtx.data.objectives.sequence_regression import SequenceRegression
from qtx.data.objectives.token_classification import TokenClassification

OBJECTIVES: dict[str, Objective] = {
    "mlm": MaskedLanguageModelling(),
    "clm": CausalLanguageModelling(),
    "classification": Classification(),
    "distill": Distillation(),
    "sequence_classification": SequenceClassification(),
    "sequence_regression": SequenceRegression(),
    "multi_label_classification": MultiLabelClassification(),
    "token_classification": TokenClassification(),
    "question_answering": QuestionAnswering(),
    "choices": Choosing(),
}
"""Training objectives by the name that configs use."""


def name_of(objective: Objective) -> str:
    """Returns the name that configs have for a registered objective."""
    return next(name for name, other in OBJECTIVES.items() if other is objective)


def names_where(holds: Callable[[TextObjective], bool]) -> str:
    """Returns the names of the objectives on text of which `holds` is true, for a message: `mlm or clm`."""
    return " or ".join(name for name, x in OBJECTIVES.items() if isinstance(x, TextObjective) and holds(x))


__all__ = [
    "OBJECTIVES",
    "CausalLanguageModelling",
    "Classification",
    "MakeExample",
    "NumbersOfTexts",
    "Objective",
    "TextObjective",
    "name_of",
    "names_where",
]
