"""The names of a checkpoint's classes, as transformers and timm take them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from qtx.families import FAMILIES
from qtx.interop.class_names import class_names

UNNAMED = ("LABEL_0", "LABEL_1", "LABEL_2")
ABC = ("a", "b", "c")
OF_TRANSFORMERS = {
    "in no order": ({"2": "c", "0": "a", "1": "b"}, None, ABC),
    "none": (None, None, UNNAMED),
    "numbers": ({"0": 0, "1": 1, "2": 2}, None, ("0", "1", "2")),
    "of two classes one name": ({"0": "a", "1": "b", "2": "b"}, None, ("a", "b (1)", "b (2)")),
    "too few": ({"0": "a", "1": "b"}, None, UNNAMED),
    "too many": ({"0": "a", "1": "b", "2": "c", "3": "d"}, None, UNNAMED),
    "a gap": ({"0": "a", "1": "b", "3": "c"}, None, UNNAMED),
    "no numbers": ({"a": "a", "b": "b", "c": "c"}, None, UNNAMED),
    "as many as num_labels": ({"0": "a", "1": "b", "2": "c"}, 3, ABC),
    "another number than num_labels": ({"0": "a", "1": "b"}, 3, UNNAMED),
    "no mapping": (["a", "b", "c"], None, UNNAMED),
}
OF_TIMM = {
    "a list": ({"label_names": list(ABC)}, ABC),
    "numbered, with a gap": ({"label_names": {"2": "c", "0": "a"}}, ("a", "LABEL_1", "c")),
    "within": ({"pretrained_cfg": {"label_names": list(ABC)}}, ABC),
    "without before within": ({"label_names": list(ABC), "pretrained_cfg": {"label_names": list("xyz")}}, ABC),
    "by the name of earlier versions": ({"labels": list(ABC)}, ABC),
    "none": ({"pretrained_cfg": {}}, UNNAMED),
    "too many": ({"label_names": list("abcd")}, UNNAMED),
}


def named(values, kind=0):
    values = json.loads(json.dumps(values))
    return class_names(SimpleNamespace(values=values, checkpoint=FAMILIES["vit"].checkpoints[kind]), 3)


@pytest.mark.parametrize(("names", "number", "expected"), OF_TRANSFORMERS.values(), ids=OF_TRANSFORMERS)
def test_of_transformers(names, number, expected):
    values = {"id2label": names, "num_labels": number}
    assert named({key: value for key, value in values.items() if value is not None}) == expected


@pytest.mark.parametrize(("values", "expected"), OF_TIMM.values(), ids=OF_TIMM)
def test_of_timm(values, expected):
    assert named(values, kind=1) == expected


@pytest.mark.parametrize("case", ["in no order", "numbers", "as many as num_labels", "another number than num_labels"])
def test_transformers_takes_the_same(case):
    transformers = pytest.importorskip("transformers")
    names, number, expected = OF_TRANSFORMERS[case]
    theirs = transformers.BertConfig(id2label=names, **({"num_labels": number} if number else {}))
    assert tuple(str(theirs.id2label[i]) for i in range(3)) == expected
