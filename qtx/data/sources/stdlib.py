"""The built-in corpus: English prose that every CPython brings along, so that a first run needs no file.

It consists of the language reference's help topics (`pydoc_data.topics`) and the docstrings of the standard library,
2.0 to 2.3 MB by version and distribution. The source files are parsed, never imported, in sorted order: the same Python
gives the same documents.
"""

from __future__ import annotations

import ast
import functools
import json
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

from qtx.data.asked import default_stride, make_asked_data
from qtx.data.choice_files import ChoiceQuestion
from qtx.data.chosen import make_choice_data
from qtx.data.dataset import Data
from qtx.data.label_values import ANSWERS, CHOICES, CLASS, NAMES, NUMBERS, TAGS
from qtx.data.labelled import LabelledTextOptions
from qtx.data.objectives import TextObjective
from qtx.data.question_files import Question
from qtx.data.splitting import split_by_name
from qtx.data.tables import LabelledText
from qtx.data.tagged import make_tagged_data
from qtx.data.tagged_files import TaggedWords
from qtx.data.text import TextOptions
from qtx.foundation.errors import QtxError

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
HELD_OUT_FRACTION = 0.05
REMEDY = "is Python's library complete?"


class Document(NamedTuple):
    """A text and the name that decides its split."""

    name: str
    text: str


@dataclass(frozen=True)
class Stdlib(TextOptions):
    """Python's help topics and docstrings; a document is a topic or a module.

    Attributes:
      held_out_fraction: share of the documents to evaluate on.
    """

    held_out_fraction: float = HELD_OUT_FRACTION

    def load(self, objective: TextObjective) -> Data:
        splits = split_stdlib(self.held_out_fraction)
        training, held_out = ([document.text for document in documents] for documents in splits)
        return self.make_data("stdlib", training, held_out, objective)


def _mean_length(document: Document) -> str:
    words = document.text.split()
    return json.dumps([sum(map(len, words)) / max(len(words), 1)])


def _words_there(document: Document) -> str:
    return json.dumps([word for word in LABEL_WORDS if word in document.text])


Row = TypeVar("Row")
TAG_NAMES, FIRST_WORDS, FEW_WORDS = ("O", "B-LONG", "I-LONG"), 50, 5
LABEL_WORDS = ("class", "error", "example", "return")
LABELS: dict[str, Callable[[Document], str]] = {
    CLASS: lambda document: document.name.split()[0],
    NUMBERS: _mean_length,
    NAMES: _words_there,
}
"""Functions that label a document, by the kind of label."""


@dataclass(frozen=True)
class StdlibLabels(LabelledTextOptions):
    """Python's help topics and docstrings, each labelled `topic` or `module`, or by the mean length of its words, or by
    which of a few words it has, or word by word, or asked for their longest word, or for those after the first five; a
    twentieth is held out."""

    @staticmethod
    def serves(objective):
        return isinstance(objective, TextObjective) and (objective.labelled or objective.taught)

    def pairs(self, objective):
        return objective.label_kind == ANSWERS

    def load(self, objective: TextObjective) -> Data:
        kind = objective.label_kind
        if kind == TAGS:
            sentences = _split([_long_words(document) for document in stdlib_documents()], lambda x: " ".join(x.words))
            return make_tagged_data(self, "stdlib_labels", *sentences, objective, TAG_NAMES, {})
        if kind == ANSWERS:
            asked = _split([_longest_word(document) for document in stdlib_documents()], lambda x: x.context)
            stride = default_stride(self.sequence_length)
            return make_asked_data(self, "stdlib_labels", *asked, objective, stride, {})
        if kind == CHOICES:
            texts = [words for x in stdlib_documents() if len(words := x.text.split()[: 2 * FEW_WORDS]) > FEW_WORDS + 1]
            rows_of_choices = _split([_next_words(words) for words in texts], lambda x: x.contexts[0])
            return make_choice_data(self, "stdlib_labels", *rows_of_choices, objective, " ", {})
        label, classes = LABELS[kind], LABEL_WORDS if kind == NAMES else None
        rows = [LabelledText(document.text, label(document)) for document in stdlib_documents()]
        return self.make_labelled_data("stdlib_labels", *_split(rows, lambda x: x.text), objective, classes)


def _split(rows: list[Row], text: Callable[[Row], str]) -> tuple[list[Row], list[Row]]:
    return split_by_name(rows, text, HELD_OUT_FRACTION, "text", REMEDY)


def _long_words(document: Document) -> TaggedWords:
    """Labels the first words of a document: neighbours of more than six letters make up an entity."""
    words = document.text.split()[:FIRST_WORDS]
    long = [False, *(len(word) > 6 for word in words)]
    return TaggedWords(tuple(words), tuple(TAG_NAMES[here + (here and before)] for before, here in pairwise(long)))


def _longest_word(document: Document) -> Question:
    """Asks for the longest of the first words of a document."""
    context = " ".join(document.text.split()[:FIRST_WORDS])
    answer = max(context.split(), key=len)
    return Question("Longest?", context, (answer,), (context.index(answer),), False)


def _next_words(words: list[str]) -> ChoiceQuestion:
    """Asks whether a text goes on with its own words or with these the other way round."""
    first, following = " ".join(words[:FEW_WORDS]), words[FEW_WORDS:]
    choices, right = (following, following[::-1]), len(following[0]) % 2
    return ChoiceQuestion((first, first), tuple(" ".join(x) for x in choices[:: -1 if right else 1]), right)


def split_stdlib(fraction: float) -> tuple[list[Document], list[Document]]:
    """Returns the training and the held-out documents."""
    return split_by_name(stdlib_documents(), lambda document: document.name, fraction, "document", REMEDY)


@functools.cache
def stdlib_documents() -> tuple[Document, ...]:
    """Returns the topics, then the modules with docstrings, sorted by name; parses some 700 files in about 3 seconds.

    Raises:
      QtxError: when this Python comes without the source of its library.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    topics = root / "pydoc_data" / "topics.py"
    if not topics.is_file():
        raise QtxError(f"this Python has no {topics}: use source text_files, or a Python with its complete library")
    documents = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the library's own source are not the user's affair
        for name, text in sorted(_literal_dict(topics).items()):
            documents.append(Document(f"topic {name}", text))
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).parts):
            module = path.relative_to(root)
            text = "" if SKIPPED_FOLDERS & set(module.parts) else module_docstrings(path.read_bytes())
            if text:
                documents.append(Document(f"module {'.'.join(module.with_suffix('').parts)}", text))
    return tuple(documents)


def _literal_dict(path: Path) -> dict[str, str]:
    tree = ast.parse(path.read_bytes())
    return next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))


def module_docstrings(source: bytes) -> str:
    """Joins a module's docstrings in source order by blank lines; empty if it has none or is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # a template or a file that is broken on purpose
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in _statements(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(filter(None, (ast.get_docstring(node) for node in nodes)))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yields a statement and those within it. `ast.walk` goes through expressions too, where nothing is defined."""
    yield node
    for blocks in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, blocks, ()):
            yield from _statements(child)
