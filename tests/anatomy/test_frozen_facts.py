"""The facts of every model are those that were frozen when paths of parameters and sites still told them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.anatomy.facts import facts
from tests.anatomy.models import NAMES

FROZEN = json.loads((Path(__file__).parent / "facts.json").read_text())


def test_every_model_has_its_facts():
    assert list(FROZEN) == NAMES


@pytest.mark.representative("BERT, plain")
@pytest.mark.parametrize("name", NAMES)
def test_facts_are_those_that_were_frozen(name):
    assert json.loads(json.dumps(facts(name))) == FROZEN[name]
