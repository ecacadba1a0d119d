"""Docstrings begin with what a reader who opens a file first understands; a test can hold their first words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "qtx"
FILES = sorted(PACKAGE.rglob("*.py"))
# A noun is missing before these, or is in another file.
ELLIPTICAL = re.compile(
    r"(Of|As|What|Whether|That|To|By|Where|Which|How|It|They|Its|Their|Those|The same|Both|Such|In|On|At|For|From|With|"
    r"Within|Until|If|When|One that|Not|None|Nothing|Beside|Under|After|Before|Them|And|Or|But|Here|There|Then|Else|"
    r"Only|Likewise|Again|Never|Same|Who|Whose|Why|Everything that|All that)\b"
)
VERB = re.compile(r"[A-Z][a-z]+s\b")


@pytest.mark.parametrize("folder", sorted({file.relative_to(PACKAGE).parts[0] for file in FILES}))
def test_first_words_are_those_of_a_sentence(folder):
    """A function's are a verb in the third person, such as "Returns"."""
    wrong = []
    for file in FILES:
        if file.relative_to(PACKAGE).parts[0] != folder:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            without_verb = isinstance(node, ast.FunctionDef) and not VERB.match(text)
            if text and (ELLIPTICAL.match(text) or without_verb):
                wrong.append(f"{file.relative_to(PACKAGE.parent)}: {text.splitlines()[0]}")
    assert not wrong
