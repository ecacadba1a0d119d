"""Classes: their names in the order of their numbers, and the class of a label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from qtx.foundation.errors import QtxError

WHOLE = re.compile(r"(-?[0-9]{1,18})(\.0+)?")
NUMBERED = re.compile(r"(?:LABEL_)?(-?[0-9]{1,18})")
SHOWN = 10
"""Number of classes that a message names: there may be thousands."""


class Known(tuple[str, ...]):
    """Names of classes that a model brings, and not the user: numbers in data need not mean these."""


class UnknownLabel(QtxError):
    """A label belongs to none of the classes."""


def plain(label: str) -> str:
    """Strips a label of the white space around it, and a whole number of a fraction of zeros, as 1.0 is 1."""
    label = label.strip()
    number = WHOLE.fullmatch(label)
    return number[1] if number else label


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Sorts the classes of labels that come in no order: as numbers if all are whole numbers or like `LABEL_3`."""
    found = sorted({plain(label) for label in labels})
    numbers = {label: int(match[1]) for label in found if (match := NUMBERED.fullmatch(label))}
    return tuple(sorted(found, key=numbers.__getitem__) if len(numbers) == len(found) else found)


def default_names(number: int) -> tuple[str, ...]:
    """Returns the names that transformers gives to `number` classes without names."""
    return tuple(f"LABEL_{i}" for i in range(number))


def are_unnamed(classes: Sequence[str]) -> bool:
    """Says whether the names of classes are only their numbers, `3` or `LABEL_3`."""
    return all(name in (f"LABEL_{i}", str(i)) for i, name in enumerate(classes))


def check_classes(classes: Sequence[str] | None, fewest: int = 2) -> None:
    """Raises QtxError unless an option `classes` is None or names `fewest` classes or more, each once."""
    if classes is None:
        return
    texts = all(isinstance(name, str) for name in classes)
    if not texts or len(set(map(plain, classes))) < max(fewest, len(classes)):
        many = "labels" if fewest < 2 else "two labels or more"
        raise QtxError(f"classes is {classes!r}: expected {many}, each once, texts: ('neg', 'pos')")


class Numbering:
    """A `Numbering` finds a label's class by name or, for classes without names, by number, `3` or `LABEL_3`.

    Attributes:
      classes: the classes' names in the order of their numbers.
    """

    def __init__(self, classes: Sequence[str]):
        self.classes = classes if isinstance(classes, tuple) else tuple(classes)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Maps each label to its class, without names that several classes share."""
        names = [plain(name) for name in self.classes]
        times = Counter(names)
        numbers = {name: i for i, name in enumerate(names) if times[name] == 1}
        if are_unnamed(self.classes):
            numbers |= {name: i for i in range(len(names)) for name in (str(i), f"LABEL_{i}")}
        return numbers

    def number(self, label: str, where: str) -> int:
        """Returns the number of a label's class.

        Args:
          label: the label as the data has it.
          where: the place of the label, for the message.

        Raises:
          UnknownLabel: if the label belongs to none of the classes.
        """
        number = self.numbers.get(plain(label))
        if number is None:
            raise UnknownLabel(
                f"{where}: label {label[:50]!r} is none of the classes {in_words(self.classes)}: correct it, or set "
                f"data.classes to the data's labels in the order of the classes' numbers, e.g. ('neg', 'pos')"
            )
        return number


def in_words(classes: Sequence[str]) -> str:
    """Lists the first classes by their names, and says how many more there are."""
    more = len(classes) - SHOWN
    names = [name[:50] for name in classes[:SHOWN]]
    return ", ".join(repr(name) if "," in name else name for name in names) + (
        f" and {more:,} more" if more > 0 else ""
    )


def lacking(classes: Sequence[str], there: Iterable[int]) -> str:
    """Says how many classes are not among the numbers `there`, those with an example; empty if all are."""
    number = len(classes) - len(set(there))
    return f" ({number:,} without an example)" if number else ""
