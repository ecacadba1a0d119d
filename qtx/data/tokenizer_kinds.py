"""The tokenizer classes of transformers: their special tokens, and which of them they put around texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, models

from qtx.data.templates import Part, Template
from qtx.foundation.errors import QtxError

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True)
class Kind:
    """A tokenizer class of transformers.

    Attributes:
      tokens: the special tokens by their roles, unless a folder names others; some have roles that no template has.
      between: roles between two texts, for a class that puts `cls` before and `sep` after; "": the class puts `bos`
        before each text and `eos` after it, each if told so.
      second_type: the token type of the second text.
      begins: whether `bos` is put before a text if no settings tell.
    """

    tokens: Mapping[str, str]
    between: str = ""
    second_type: int = 0
    begins: bool = False

    def layouts(self, bos: bool, eos: bool) -> tuple[str, str]:
        """Returns the roles around one text, A, and around two, A and B, each with its token type unless that is 0."""
        if self.between:
            return "cls A sep", f"cls A {self.between} B:{self.second_type} sep:{self.second_type}"
        one, other = (
            " ".join(["bos" + t] * bos + [text + t] + ["eos" + t] * eos) for text, t in (("A", ""), ("B", ":1"))
        )
        return one, f"{one} {other}"


_ANGLED = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
BERT = Kind({role: f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}, "sep", 1)
ALBERT = Kind({**BERT.tokens, "bos": "[CLS]", "eos": "[SEP]", "unk": "<unk>", "pad": "<pad>"}, "sep", 1)
ROBERTA = Kind(_ANGLED, "sep sep")
_UNUSED = {f"unused {role}": f"{_ANGLED[role]}NOTUSED" for role in ("bos", "eos", "unk")}
CAMEMBERT = Kind({**_ANGLED, **_UNUSED}, "sep sep")
MPNET = Kind({**_ANGLED, "unk": "[UNK]"}, "sep sep")
GPT2 = Kind(dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"))
OPT = Kind({**dict.fromkeys(("bos", "eos", "unk"), "</s>"), "pad": "<pad>", "mask": "<mask>"}, begins=True)
LLAMA = Kind({"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, begins=True)
ANY = Kind({})
MODEL_TYPES: dict[str, Kind] = {
    **dict.fromkeys(("bert", "distilbert", "electra", "mobilebert", "convbert", "squeezebert"), BERT),
    **dict.fromkeys(("roberta", "xlm-roberta", "bart", "longformer"), ROBERTA),
    **{"albert": ALBERT, "camembert": CAMEMBERT, "mpnet": MPNET, "gpt2": GPT2, "opt": OPT, "llama": LLAMA},
}
"""The class of a model's tokenizer, by the model's type."""
CLASSES: dict[str, Kind] = {
    **{f"{model_type.replace('-', '')}tokenizer": kind for model_type, kind in MODEL_TYPES.items()},
    **dict.fromkeys(("pretrainedtokenizer", "tokenizersbackend"), ANY),
}
"""Tokenizer classes by their names in lower case, without `Fast`."""


def format_kind(backend: Tokenizer) -> Kind:
    """Returns the class of a tokenizer if no settings tell it: BERT's for WordPiece, OPT's for anything else."""
    return BERT if isinstance(backend.model, models.WordPiece) else OPT


def roles_of(backend: Tokenizer, kind: Kind, named: Mapping[str, AddedToken | None]) -> dict[str, str]:
    """Returns the special tokens of a tokenizer by their roles: those that are named, or else those of its class that
    its vocabulary has."""
    usual = {role: token for role, token in kind.tokens.items() if backend.token_to_id(token) is not None}
    told = usual | {role: None if token is None else token.content for role, token in named.items()}
    return {role: token for role in ROLES if (token := told.get(role)) is not None}


def template_of(backend: Tokenizer, roles: Mapping[str, str], layouts: tuple[str, str]) -> Template:
    """Makes the template of layouts of roles; see `Kind.layouts`.

    Raises:
      QtxError: if a role has no token in the vocabulary.
    """

    def part(word: str) -> Part:
        role, _, kind = word.partition(":")
        if role in "AB":
            return Part(None, "AB".index(role), int(kind or 0))
        token = backend.token_to_id(roles.get(role, ""))
        if token is None:
            raise QtxError(
                f"it has no {role}_token to put around a text: expected [CLS] and [SEP] (BERT) or </s> (OPT), or the "
                "tokens named in a tokenizer_config.json beside it"
            )
        return Part(token, None, int(kind or 0))

    single, pair = (tuple(part(word) for word in layout.split()) for layout in layouts)
    return Template(single, pair)
