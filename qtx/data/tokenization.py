"""Tokenizers: one wrapper around the `tokenizers` library that knows the special tokens' roles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from qtx.data.templates import Template
from qtx.data.tokenizer_kinds import format_kind, roles_of, template_of
from qtx.data.tokenizer_settings import SENTENCE_CONFIGS, TOKENIZER_CONFIG
from qtx.foundation.errors import QtxError

TOKENIZER = "tokenizer.json"
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OPT_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer, the template that it puts around texts, and its special tokens.

    Attributes:
      backend: the `tokenizers.Tokenizer`.
      template: the special tokens around one text, and around two.
      roles: the vocabulary's special tokens by role: `"bos"`, `"eos"`, `"unk"`, `"sep"`, `"pad"`, `"cls"`, `"mask"`, as
        far as there are such.
      files: name to text of the files that say all this, which `load_tokenizer` and the Hugging Face libraries read;
        `tokenizer.json` alone if it says everything.
      rows: rows of the embedding table of the tokenizer's model; None: there is no such model yet.
      from_left: whether a text that is too long loses its beginning.
      lower: whether a text is made lower case before anything reads it.
      prompt: a text that is put before every text (`qtx.data.prompts`).

    Raises:
      QtxError: if a special token around every text has no row in the embedding table.
    """

    backend: Tokenizer
    template: Template
    roles: Mapping[str, str]
    files: Mapping[str, str] = field(repr=False)
    rows: int | None = None
    from_left: bool = False
    lower: bool = False
    prompt: str = ""

    def __post_init__(self):
        self._check_rows(np.array([*self.template.before, *self.template.after], np.int32), "what is put around a text")

    @classmethod
    def trained(cls, backend: Tokenizer, text: str | None = None) -> TextTokenizer:
        """Wraps a tokenizer that was trained here: its kind of model decides between BERT's template and OPT's.

        The special tokens mark structure alone: the same characters in a text (an HTML tag <s>) are ordinary text.

        Args:
          backend: the tokenizer.
          text: the text of its `tokenizer.json`, if the tokenizer was read from one.

        Raises:
          QtxError: if the vocabulary lacks the tokens of the template.
        """
        backend.encode_special_tokens = True
        kind = format_kind(backend)
        roles = roles_of(backend, kind, {})
        template = template_of(backend, roles, kind.layouts(kind.begins, False))
        return cls(backend, template, roles, {TOKENIZER: backend.to_str(pretty=True) if text is None else text})

    @cached_property
    def vocab_size(self) -> int:
        """Returns V, the number that every id is below."""
        return self._entries if self.rows is None else min(self._entries, self.rows)

    @cached_property
    def _entries(self) -> int:
        return max(self.backend.get_vocab().values()) + 1

    @cached_property
    def is_special(self) -> np.ndarray:
        """Returns bool [V], True for special tokens, the unknown token included."""
        special = {i for i, token in self.backend.get_added_tokens_decoder().items() if token.special}
        found = np.zeros(self._entries, bool)
        found[[*special, *self._ids.values()]] = True
        return found[: self.vocab_size]

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {role: i for role, token in self.roles.items() if (i := self.backend.token_to_id(token)) is not None}

    @property
    def start(self) -> int:
        """Returns the id that begins a packed block: the template's first, or else that of bos, cls, eos or sep.

        Raises:
          QtxError: if there is no such token.
        """
        return self.template.before[0] if self.template.before else self._id_of("bos", "cls", "eos", "sep")

    @property
    def end(self) -> int:
        """Returns the id that ends a packed document: the template's last, or eos, sep, bos, cls; raises as `start`."""
        return self.template.after[-1] if self.template.after else self._id_of("eos", "sep", "bos", "cls")

    def _id_of(self, *roles: str) -> int:
        found = next((i for role in roles if (i := self._ids.get(role, self.vocab_size)) < self.vocab_size), None)
        if found is None:
            raise QtxError(
                "the tokenizer has no token to begin a block of text or to end a document with: name bos_token and "
                f"eos_token, or cls_token and sep_token, in a {TOKENIZER_CONFIG} beside it"
            )
        return found

    @property
    def pad(self) -> int:
        """Returns the id that pads a short example; 0 if the embedding table has none, as the padding is masked."""
        pad = self._ids.get("pad", 0)
        return pad if pad < self.vocab_size else 0

    @property
    def mask(self) -> int | None:
        """Returns the id of `[MASK]` or `<mask>`, or None."""
        mask = self._ids.get("mask", self.vocab_size)
        return mask if mask < self.vocab_size else None

    @property
    def digest(self) -> str:
        """Returns the SHA-256 of the files."""
        whole = hashlib.sha256(self.files[TOKENIZER].encode())
        for name in sorted(self.files.keys() - {TOKENIZER}):
            whole.update(f"{name}\n{self.files[name]}".encode())
        return whole.hexdigest()

    def encode(self, texts: Sequence[str], what: str = "text") -> list[np.ndarray]:
        """Returns the token ids of each text, int32 [n_i], without the template; encodes texts in parallel.

        Args:
          texts: the texts.
          what: what to call the texts in the error, e.g. `"text_files, a training text"`.

        Raises:
          QtxError: if a text has a token that the model's embedding table has no row for.
        """
        read = [text.lower() for text in texts] if self.lower else list(texts)
        encodings = self.backend.encode_batch_fast(read, add_special_tokens=False)
        ids = [np.array(encoding.ids, np.int32) for encoding in encodings]
        self._check_texts(ids, texts, what)
        return ids

    def encode_with_offsets(self, texts: Sequence[str], what: str = "text") -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns the token ids of each text, int32 [n_i], as `encode`, and where in the text each token begins and
        ends, in characters, int64 [n_i, 2]. Arguments and errors are those of `encode`.

        Raises:
          QtxError: also if a text that is made lower case changes its length.
        """
        read = [text.lower() for text in texts] if self.lower else list(texts)
        longer = next((text for text, lower in zip(texts, read, strict=True) if len(lower) != len(text)), None)
        if longer is not None:
            raise QtxError(f"{what} {longer[:40]!r} has a letter that is two in lower case: write it in lower case")
        encodings = self.backend.encode_batch(read, add_special_tokens=False)
        encoded = [(np.array(x.ids, np.int32), np.array(x.offsets, np.int64).reshape(-1, 2)) for x in encodings]
        self._check_texts([ids for ids, _ in encoded], texts, what)
        return encoded

    def encode_words(
        self, sentences: Sequence[Sequence[str]], what: str = "text"
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns, of each sentence, the token ids of its words without the template, and the number of the word that
        each token is of, int32 [n_i]: every word is cut by itself, as transformers does with `is_split_into_words`. A
        word begins with a space for a byte-level tokenizer. Arguments and errors are those of `encode`."""
        read = [[word.lower() for word in words] if self.lower else list(words) for words in sentences]
        found = self._of_words.encode_batch(read, is_pretokenized=True, add_special_tokens=False)
        encoded = [(np.array(x.ids, np.int32), np.array(x.word_ids, np.int32)) for x in found]
        self._check_texts([ids for ids, _ in encoded], map(" ".join, sentences), what)
        return encoded

    @cached_property
    def _of_words(self) -> Tokenizer:
        """Returns the tokenizer for single words, `backend` itself unless that puts no space before a text."""
        cutter = self.backend.pre_tokenizer
        if not isinstance(cutter, pre_tokenizers.ByteLevel) or cutter.add_prefix_space:
            return self.backend
        backend = Tokenizer.from_str(self.backend.to_str())
        cutter = backend.pre_tokenizer
        cutter.add_prefix_space = True
        backend.pre_tokenizer = cutter
        backend.encode_special_tokens = self.backend.encode_special_tokens
        return backend

    @cached_property
    def prompt_ids(self) -> np.ndarray:
        """Returns the ids of the prompt alone, int32 [n]."""
        return self.encode([self.prompt], "the prompt")[0]

    def prompt_length(self, length: int) -> int:
        """Counts the tokens at the beginning of a text of at most `length` tokens that are not the text's own: the
        template's and the prompt's. A special token at the end of the prompt alone does not count."""
        alone, _ = self.template.around([self.prompt_ids], length, self.from_left)
        return len(alone) - int(self.is_special[alone[-1]])

    def _check_texts(self, ids: Sequence[np.ndarray], texts: Iterable[str], what: str) -> None:
        if self.vocab_size < self._entries:
            for of_one, text in zip(ids, texts, strict=True):
                self._check_rows(of_one, f"{what} {text[:40]!r}")

    def _check_rows(self, ids: np.ndarray, what: str) -> None:
        if ids.max(initial=0) >= self.vocab_size:
            id_ = int(ids[ids >= self.vocab_size][0])
            raise QtxError(
                f"{what} has the token {self.tokens([id_])[0]!r}, number {id_}, but the model's word table has "
                f"{self.vocab_size} rows: take the token out of it, or give the checkpoint more rows, by transformers' "
                "resize_token_embeddings"
            )

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids, without special tokens."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Returns the vocabulary's entry of each id."""
        return [str(self.backend.id_to_token(int(i))) for i in ids]

    def for_export(self) -> dict[str, bytes]:
        """Returns the files of a checkpoint by name, from which transformers, too, reads the whole tokenizer."""
        backend = Tokenizer.from_str(self.files[TOKENIZER])
        backend.post_processor = self.template.processor(self.backend.id_to_token)
        said = {TOKENIZER: backend.to_str(pretty=True), **settings_of(self)}
        return {name: text.encode() for name, text in said.items()}


def settings_of(tokenizer: TextTokenizer) -> dict[str, str]:
    """Returns a tokenizer's settings files, name to text: what `tokenizer.json` may not say, under the usual keys."""
    values: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    values |= {f"{role}_token": token for role, token in tokenizer.roles.items()}
    if tokenizer.backend.encode_special_tokens:
        values["split_special_tokens"] = True
    if tokenizer.from_left:
        values["truncation_side"] = "left"
    if all(part.type == 0 for part in tokenizer.template.pair):
        values["model_input_names"] = ["input_ids", "attention_mask"]
    files = {TOKENIZER_CONFIG: values}
    if tokenizer.lower:
        files[SENTENCE_CONFIGS[0]] = {"do_lower_case": True}
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in files.items()}


def bert_backend(
    vocabulary: dict[str, int],
    unknown: str = "[UNK]",
    lowercase: bool | None = None,
    strip_accents: bool | None = None,
    chinese: bool = True,
) -> Tokenizer:
    """Makes BERT's WordPiece over a vocabulary, of which no entry is special yet.

    Args:
      vocabulary: token to id.
      unknown: the token for words that the vocabulary cannot make up.
      lowercase: whether a text is made lower case; None: unless the vocabulary has an entry with upper case.
      strip_accents: whether letters lose their accents; None: if they are made lower case.
      chinese: whether each Chinese character is a word.
    """
    if lowercase is None:
        specials = (*BERT_SPECIALS, *OPT_SPECIALS, "<mask>")
        lowercase = all(token == token.lower() for token in vocabulary if token not in specials)
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def byte_level_backend(model: models.BPE, add_prefix_space: bool = False) -> Tokenizer:
    """Makes GPT-2's byte-level BPE, as RoBERTa and OPT use it: no byte is unknown, and a space is put before a text
    only with `add_prefix_space`."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend
