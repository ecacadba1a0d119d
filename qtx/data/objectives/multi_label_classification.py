"""Multi-label classification: a text has each of several labels or not, whatever its others are."""

from __future__ import annotations

import dataclasses

from qtx.data.classes import Numbering, in_order
from qtx.data.label_values import NAMES
from qtx.data.objectives.numbers import NumbersOfTexts, counted
from qtx.foundation.errors import QtxError
from qtx.losses import BinaryCrossEntropy


@dataclasses.dataclass(frozen=True)
class MultiLabelClassification(NumbersOfTexts):
    """Prediction of a 1 for each label that a text has, and a 0 for each that it has not."""

    loss = BinaryCrossEntropy()
    metric = "f1"
    also_measured = ()
    label_kind = NAMES
    in_block = "int32"

    def named(self, rows, names):
        every = [row for of_split in rows.values() for row in of_split]
        kinds = {type(x) for row in every for x in row}
        if len(kinds) > 1:
            raise QtxError("some texts have names of labels, and others a 0 or 1 for each: expected one of the two")
        if kinds == {int}:
            return (counted(rows) if names is None else names), rows
        training = next(iter(rows.values()))
        names = in_order(x for row in training for x in row) if names is None else names
        if not names:
            raise QtxError("no training text has a label: expected names of labels, as many as a text has")
        numbering, places = Numbering(names), range(len(names))
        numbers = {
            split: [{numbering.number(x, f"the {split} texts") for x in row} for row in of_split]
            for split, of_split in rows.items()
        }
        return names, {split: [[int(i in row) for i in places] for row in found] for split, found in numbers.items()}
