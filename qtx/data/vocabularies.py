"""Training a vocabulary on text, deterministically: BERT's WordPiece and OPT's byte-level BPE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from qtx.data.tokenization import BERT_SPECIALS, OPT_SPECIALS, TextTokenizer, bert_backend, byte_level_backend
from qtx.foundation.errors import QtxError

MAX_ALPHABET = 1000
"""WordPiece keeps this many characters, the most frequent ones, as BERT's trainer does; the others are [UNK]."""
MIN_FREQUENCY = 2
"""Pairs seen less often are not merged."""
PRIVATE = 0xF0000
"""First code point of a private-use plane: no text gives these code points a meaning."""


def train_wordpiece(texts: Sequence[str], vocab_size: int) -> TextTokenizer:
    """Trains BERT's uncased WordPiece: merges of the most frequent pair, `##` before a piece inside a word.

    The library's own WordPiece trainer numbers the `##` characters in the order of a randomly seeded hash map, so its
    vocabulary differs from run to run. Here each character inside a word stands as a private-use character of its own
    and the library's BPE trainer, which orders its alphabet, learns the same merges.

    Args:
      texts: the training documents.
      vocab_size: entries, special tokens and alphabet included.

    Raises:
      QtxError: when `vocab_size` is below the special tokens and alphabet, or above what the texts yield.
    """
    words = _bert_words(texts)
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for i, character in enumerate(word):
            characters["##" * (i > 0) + character] += count
    by_frequency = sorted(characters, key=lambda c: (-characters[c], c))
    alphabet = sorted(by_frequency[:MAX_ALPHABET])
    _check_room("wordpiece", vocab_size, len(BERT_SPECIALS), len(alphabet))
    stand_in = {c: chr(PRIVATE + i) if c.startswith("##") and len(c) == 3 else c for i, c in enumerate(alphabet)}
    original = {chr(PRIVATE + i): c[2:] for i, c in enumerate(alphabet) if c.startswith("##") and len(c) == 3}

    def corpus():
        for word in sorted(words):
            pieces = [word[0], *("##" + character for character in word[1:])]
            if all(piece in stand_in for piece in pieces):
                yield " ".join(["".join(stand_in[piece] for piece in pieces)] * words[word])

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=vocab_size - len(BERT_SPECIALS),
            min_frequency=MIN_FREQUENCY,
            initial_alphabet=list(stand_in.values()),
            show_progress=False,
        ),
    )
    learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    pieces = ["##" * (token[0] in original) + "".join(original.get(c, c) for c in token) for token, _ in learned]
    _check_reached("wordpiece", vocab_size, len(BERT_SPECIALS) + len(pieces))
    backend = bert_backend({token: i for i, token in enumerate((*BERT_SPECIALS, *pieces))})
    backend.add_special_tokens(list(BERT_SPECIALS))
    return TextTokenizer.trained(backend)


def _bert_words(texts: Sequence[str]) -> Counter[str]:
    """Counts words as BERT cuts them; each distinct space-separated word is cut only once."""
    normalizer, cutter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    spaced = Counter(word for text in texts for word in text.split())
    for word, count in spaced.items():
        for piece, _ in cutter.pre_tokenize_str(normalizer.normalize_str(word)):
            words[piece] += count
    return words


def train_bpe(texts: Sequence[str], vocab_size: int) -> TextTokenizer:
    """Trains OPT's byte-level BPE, special tokens at OPT's ids 0 to 3; arguments and errors as of `train_wordpiece`."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _check_room("bpe", vocab_size, len(OPT_SPECIALS), len(alphabet))
    backend = byte_level_backend(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=list(OPT_SPECIALS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    _check_reached("bpe", vocab_size, backend.get_vocab_size())
    return TextTokenizer.trained(backend)


def _check_room(name: str, vocab_size: int, specials: int, alphabet: int) -> None:
    if vocab_size < specials + alphabet:
        raise QtxError(
            f"vocab_size {vocab_size} is too small for {name} on this text: {specials} special tokens and an alphabet "
            f"of {alphabet} need at least {specials + alphabet}"
        )


def _check_reached(name: str, vocab_size: int, reached: int) -> None:
    if reached < vocab_size:
        raise QtxError(
            f"vocab_size {vocab_size} is too large for {name} on this text, which yields {reached} entries: "
            f"set data.vocab_size to at most {reached}, or give more text"
        )


Trainer = Callable[[Sequence[str], int], TextTokenizer]
VOCABULARIES: dict[str, Trainer] = {"wordpiece": train_wordpiece, "bpe": train_bpe}
"""Trainable tokenizers by the name that configs use."""
