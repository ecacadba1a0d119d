"""Templates: the special tokens around a text, or around two, when a model reads them, as in [CLS] text [SEP]."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer, models
from tokenizers.processors import PostProcessor

from qtx.foundation.errors import QtxError


class Part(NamedTuple):
    """A part of a template: a special token or a text.

    Attributes:
      token: the id of a special token; None: a text.
      text: which text, 0 or 1; None: a special token.
      type: the token type, for models that have token types.
    """

    token: int | None
    text: int | None
    type: int


@dataclass(frozen=True)
class Template:
    """The special tokens around one text, `single`, and around two, `pair`, in their order."""

    single: tuple[Part, ...]
    pair: tuple[Part, ...]

    def __post_init__(self):
        if [part.text for part in self.single if part.token is None] != [0]:
            raise QtxError("its post-processor does not put special tokens around a text: expected one text, once")

    @classmethod
    def of(cls, processor: PostProcessor) -> Template:
        """Makes the template of what a post-processor of the `tokenizers` library puts around texts.

        Raises:
          QtxError: if the post-processor leaves the text out, or repeats it.
        """
        # Applied, a post-processor of any kind shows its ids, which are its own: any tokenizer of one word serves.
        one_word = _one_word()
        one_word.post_processor = processor
        return cls(_parts(one_word.encode("x")), _parts(one_word.encode("x", "x")))

    def processor(self, name: Callable[[int], str | None]) -> PostProcessor:
        """Returns the post-processor of the `tokenizers` library that puts the same tokens around texts.

        Args:
          name: maps an id to its token.
        """

        def piece(part: Part) -> dict[str, object]:
            if part.token is None:
                return {"Sequence": {"id": "AB"[part.text or 0], "type_id": part.type}}
            return {"SpecialToken": {"id": str(name(part.token)), "type_id": part.type}}

        ids = {str(name(part.token)): part.token for part in (*self.single, *self.pair) if part.token is not None}
        special = {token: {"id": token, "ids": [i], "tokens": [token]} for token, i in ids.items()}
        said = {"single": [*map(piece, self.single)], "pair": [*map(piece, self.pair)], "special_tokens": special}
        # Made from JSON: the constructor parses text in which a colon has a meaning, and a token's name may have one.
        whole = json.loads(_one_word().to_str()) | {"post_processor": {"type": "TemplateProcessing", **said}}
        return Tokenizer.from_str(json.dumps(whole)).post_processor

    @property
    def token_types(self) -> int:
        """Returns the number that the token types of two texts are below."""
        return 1 + max(part.type for part in self.pair)

    @property
    def before(self) -> tuple[int, ...]:
        """Returns the ids before a single text."""
        at = self._text_at
        return tuple(part.token for part in self.single[:at] if part.token is not None)

    @property
    def after(self) -> tuple[int, ...]:
        """Returns the ids after a single text."""
        at = self._text_at
        return tuple(part.token for part in self.single[at + 1 :] if part.token is not None)

    @property
    def _text_at(self) -> int:
        return next(i for i, part in enumerate(self.single) if part.token is None)

    def around(
        self, texts: Sequence[np.ndarray], length: int, from_left: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Puts one text, or two, between the special tokens; cuts what is too long, of two texts the longer first.

        Args:
          texts: int32 [n] each, ids without special tokens.
          length: most tokens that come out.
          from_left: whether a text loses its beginning, not its end.

        Returns:
          the ids, and the token types, int32 [m], m <= length.

        Raises:
          QtxError: if the special tokens alone leave no room.
        """
        parts = self.single if len(texts) == 1 else self.pair
        room = length - sum(part.token is not None for part in parts)
        if room < len(texts):
            raise QtxError(f"sequence_length {length} has no room beside the {length - room} special tokens: raise it")
        kept = [
            text[len(text) - n :] if from_left else text[:n]
            for text, n in zip(texts, _lengths([len(text) for text in texts], room), strict=True)
        ]
        pieces = [kept[part.text or 0] if part.token is None else np.array([part.token]) for part in parts]
        types = [np.full(len(piece), part.type) for piece, part in zip(pieces, parts, strict=True)]
        return np.concatenate(pieces).astype(np.int32), np.concatenate(types).astype(np.int32)


def _lengths(lengths: list[int], room: int) -> list[int]:
    """Returns the kept length of each text, the longer one cut first (`longest_first` of the `tokenizers` library)."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    longer = 1 if lengths[1] >= lengths[0] else 0
    short = min(lengths[1 - longer], room // 2)
    kept = [short, room - short]
    return kept if longer == 1 else kept[::-1]


def _one_word() -> Tokenizer:
    return Tokenizer(models.WordLevel({"x": 0}, unk_token="x"))


def _parts(encoding: Encoding) -> tuple[Part, ...]:
    rows = zip(encoding.ids, encoding.sequence_ids, encoding.type_ids, strict=True)
    return tuple(Part(token if text is None else None, text, kind) for token, text, kind in rows)
