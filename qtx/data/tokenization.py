"""Tokenizers: one wrapper around the `tokenizers` library that knows the special tokens' roles, and how to load one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, parse_json, read_bytes

EXPECTED = Expected("a tokenizer", "give tokenizer.json, vocab.txt, or vocab.json with merges.txt beside it")
PROBES = ("A word, 7 \u00e9 \u4e2d\u6587\n", "")
"""Texts that every tokenizer can encode: one that cannot is refused when it is loaded, not amid the data."""
BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
OPT_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
SPECIALS = (*BERT_SPECIALS, *OPT_SPECIALS, "<mask>")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer and the ids of its special tokens.

    Attributes:
      backend: the `tokenizers.Tokenizer`.
      start: id that begins every block: `[CLS]`, or `</s>` as OPT does.
      end: id that ends every document: `[SEP]`, or `</s>`.
      pad: id that fills up a short example: `[PAD]` or `<pad>`; `end` without one, as nothing looks at it.
      mask: id of `[MASK]` or `<mask>`, None without one.
      is_special: bool [V], True for special tokens, the unknown token included.
      text: what `tokenizer.json` says of it: as read, if it was read from one.

    Raises:
      QtxError: by `TextTokenizer.of` when the vocabulary lacks a start or an end token.
    """

    backend: Tokenizer
    start: int
    end: int
    pad: int
    mask: int | None
    is_special: np.ndarray = field(repr=False)
    text: str = field(repr=False)

    @classmethod
    def of(cls, backend: Tokenizer, text: str | None = None) -> TextTokenizer:
        """Finds the roles by the BERT or OPT names of the special tokens; `text` is that of its file, if it has one."""

        def first(*names: str) -> int | None:
            return next((i for i in map(backend.token_to_id, names) if i is not None), None)

        start, end = first("[CLS]", "</s>"), first("[SEP]", "</s>")
        if start is None or end is None:
            raise QtxError("the tokenizer has neither [CLS] and [SEP] (BERT) nor </s> (OPT): expected either")
        # Special tokens mark structure: the same characters in a text (an HTML tag <s>) are ordinary text.
        backend.encode_special_tokens = True
        is_special = np.zeros(max(backend.get_vocab().values()) + 1, bool)
        is_special[[i for i in map(backend.token_to_id, SPECIALS) if i is not None]] = True
        is_special[[i for i, token in backend.get_added_tokens_decoder().items() if token.special]] = True
        written = backend.to_str(pretty=True) if text is None else text
        pad = first("[PAD]", "<pad>")
        return cls(backend, start, end, end if pad is None else pad, first("[MASK]", "<mask>"), is_special, written)

    @property
    def vocab_size(self) -> int:
        """V: every id is below it."""
        return len(self.is_special)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text, int32 [n_i], without special tokens; parallel over texts."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The vocabulary's entry of each id."""
        return [str(self.backend.id_to_token(int(i))) for i in ids]

    def save(self, path: str | Path) -> None:
        """Writes `tokenizer.json`, which `load_tokenizer` and the Hugging Face libraries read."""
        Path(path).write_text(self.text, encoding="utf-8")


def bert_backend(vocabulary: dict[str, int]) -> Tokenizer:
    """BERT's WordPiece over a vocabulary; lower-cases unless the vocabulary has an entry with upper case."""
    lowercase = all(token == token.lower() for token in vocabulary if token not in SPECIALS)
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([token for token in BERT_SPECIALS if token in vocabulary])
    return backend


def byte_level_backend(model: models.BPE) -> Tokenizer:
    """GPT-2's byte-level BPE, as OPT uses it: no space is added before the text, no byte is unknown."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Loads a tokenizer from a file or a folder.

    Args:
      path: `tokenizer.json`; `vocab.txt` (BERT WordPiece, line number = id); `vocab.json` with `merges.txt` beside it
        (GPT-2 and OPT byte-level BPE); or a folder holding one of these, tried in this order.

    What the file says of truncation and padding is left out: documents are cut and packed elsewhere.

    Raises:
      QtxError: when there is no such file, it cannot be read, or it cannot encode.
    """
    path = Path(path)
    known = ("tokenizer.json", "vocab.txt", "vocab.json")
    if path.is_dir():
        found = next((path / name for name in known if (path / name).is_file()), None)
        if found is None:
            raise QtxError(f"tokenizer folder {path} has none of {', '.join(known)}")
        path = found
    if not path.is_file():
        raise QtxError(f"no tokenizer {path}: expected wordpiece, bpe (to train), or a path to {', '.join(known)}")
    content, text = read_bytes(path, EXPECTED), None
    try:
        if path.suffix == ".txt":
            backend = _word_pieces(content, path)
        elif path.name == "vocab.json":
            merges = read_bytes(path.parent / "merges.txt", EXPECTED)
            backend = _byte_pairs(parse_json(content, path, EXPECTED), merges)
            content += merges
        else:
            parse_json(content, path, EXPECTED)
            text = content.decode("utf-8")
            backend = Tokenizer.from_str(text)
        # What feeds single texts to a model would cut documents here, or pad them to any length.
        backend.no_truncation()
        backend.no_padding()
        backend.encode_batch_fast(list(PROBES), add_special_tokens=False)
    except QtxError:
        raise
    except BaseException as error:  # the library raises bare Exception for a malformed file, and panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise EXPECTED.refusal(path, error) from None
    # Every entry takes a byte of the file or more; what is kept by id must not grow with what an id says.
    if max(backend.get_vocab().values(), default=0) >= len(content):
        raise EXPECTED.refusal(path, "it has ids beyond its number of entries")
    return TextTokenizer.of(backend, text)


def _word_pieces(content: bytes, path: Path) -> Tokenizer:
    lines = _lines(content)
    tokens = lines[:-1] if lines[-1] == "" else lines
    if len(set(tokens)) < len(tokens) or "[UNK]" not in tokens:
        raise QtxError(f"{path} is not a BERT vocabulary: expected one distinct token a line, [UNK] among them")
    return bert_backend({token: i for i, token in enumerate(tokens)})


def _byte_pairs(vocabulary: dict[str, int], merges: bytes) -> Tokenizer:
    lines = (line.split(" ") for line in _lines(merges) if line and not line.startswith("#version"))
    backend = byte_level_backend(models.BPE(vocabulary, [(left, right) for left, right in lines]))
    backend.add_special_tokens([token for token in (*OPT_SPECIALS, "<mask>") if token in vocabulary])
    return backend


def _lines(content: bytes) -> list[str]:
    # Never splitlines, which also cuts at characters that tokens have.
    return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
