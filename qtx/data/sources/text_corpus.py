"""Text corpora of any size: TFDS datasets and your own files, tokenized once and then read from disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qtx.data.dataset import Data
from qtx.data.notes import described
from qtx.data.objectives import TextObjective
from qtx.data.prepared.documents import Part, beside_training, corpus_parts, validation_parts, without_held_out
from qtx.data.prepared.fingerprints import keep
from qtx.data.prepared.summary import told
from qtx.data.prepared.text import block_records, text_layout
from qtx.data.prepared.writing import Written, write
from qtx.data.prompts import with_prompt
from qtx.data.reading import check_separator
from qtx.data.records import Concatenated, Mixture, Records, check_weights
from qtx.data.splitting import DEFAULT_FRACTION, held_out_count
from qtx.data.text import TextOptions
from qtx.data.tfds_datasets import DEFAULT_DATA_DIR, open_dataset
from qtx.data.tokenization import TextTokenizer
from qtx.data.tokenizer_files import load_tokenizer
from qtx.data.vocabularies import VOCABULARIES
from qtx.foundation.errors import QtxError
from qtx.foundation.paths import at_home
from qtx.foundation.storage import Expected, digest, verify, with_checksum

TOKENIZER_CHARACTERS = 100_000_000
"""A tokenizer is trained on this much text at most, taken in equal shares from the corpora's beginnings."""
READING_THREADS = 4


@dataclass(frozen=True)
class TextCorpus(TextOptions):
    """Corpora on disk, each prepared (tokenized and packed into a TFDS dataset) at its first use or by `qtx prepare`.

    Attributes:
      corpora: each `tfds:NAME` (e.g. `tfds:wiki40b/en`, `tfds:lm1b`, a version after a colon), or a folder, glob or
        file of .txt, .md (each file a document) or .jsonl (each line's `text`), plain or with .gz, .xz or .zst. A
        document of more than 4 million characters is cut at a line's end.
      weights: how often training draws a block from each corpus, in proportion; None: in proportion to their sizes.
      validation_corpora: held-out corpora; None is TFDS's own `validation` (else `test`) split where a corpus has one,
        and a share of the documents otherwise; what is then held out of one corpus is left out of the training of all.
      held_out_fraction: share of the documents to hold out, None is 0.05; not taken with `validation_corpora`.
      document_separator: regular expression (multi-line mode) at whose matches in .txt and .md a new document begins.
      data_dir: the folder of TFDS datasets, those to read and those prepared.
    """

    corpora: tuple[str, ...] = ()
    weights: tuple[float, ...] | None = None
    validation_corpora: tuple[str, ...] | None = None
    held_out_fraction: float | None = None
    document_separator: str | None = None
    data_dir: str = DEFAULT_DATA_DIR

    def __post_init__(self):
        super().__post_init__()
        if not self.corpora:
            raise QtxError("source text_corpus needs corpora: set data.corpora, e.g. ('tfds:wiki40b/en', 'books/')")
        if self.weights is not None:
            check_weights(self.weights, len(self.corpora))
        if self.validation_corpora is not None and self.held_out_fraction is not None:
            raise QtxError("validation_corpora and held_out_fraction are both set: keep one, either holds out text")
        if self.held_out_fraction is not None:
            held_out_count(1, self.held_out_fraction)
        check_separator(self.document_separator)

    def defaults(self, objective: TextObjective) -> dict[str, Any]:
        fraction = DEFAULT_FRACTION if self.validation_corpora is None else None
        return super().defaults(objective) | {"held_out_fraction": fraction}

    def load(self, objective: TextObjective) -> Data:
        tokenizer, prepared, digests = self._prepare(objective)
        parts: dict[str, list[Records]] = {"train": [], "validation": []}
        for written in prepared:
            dataset = open_dataset(written.folder)
            for split in written.splits:
                parts[split].append(block_records(dataset, split))
        training, held_out = Concatenated(parts["train"]), Concatenated(parts["validation"])
        return Data(
            description=described(
                f"text_corpus {' '.join(self.corpora)}: {len(training):,} training and {len(held_out):,} held-out "
                f"blocks of {self.sequence_length} tokens, vocabulary {tokenizer.vocab_size:,}",
                *map(told, prepared),
            ),
            training=training if self.weights is None else Mixture(training.parts, self.weights),
            held_out=held_out,
            example=self.make_example(tokenizer, objective),
            vocab_size=tokenizer.vocab_size,
            sequence_length=self.sequence_length,
            tokenizer=tokenizer,
            digests=digests,
            reading_threads=READING_THREADS,
        )

    def prepare(self, objective: TextObjective) -> list[Written]:
        """Makes the datasets that `load` reads, one per corpus, held-out corpora last, unless they exist."""
        return self._prepare(objective)[1]

    def _prepare(self, objective: TextObjective) -> tuple[TextTokenizer, list[Written], dict[str, str]]:
        self.check_objective(objective)
        fraction = self.resolved(objective).held_out_fraction
        separator, data_dir = self.document_separator, self.data_dir
        parts = [corpus_parts(corpus, fraction, separator, data_dir) for corpus in self.corpora]
        held_out = [validation_parts(corpus, separator, data_dir) for corpus in self.validation_corpora or ()]
        parts, held_out = without_held_out(parts), beside_training(held_out, parts)
        tokenizer = self._tokenizer([splits["train"] for splits in parts], objective)
        self.make_example(tokenizer, objective)  # refuses an unfit tokenizer before the work begins
        length = self.packed_length(tokenizer, objective)
        plans = [text_layout(splits, tokenizer, length, data_dir) for splits in [*parts, *held_out]]
        contents = {
            name: [part[split].fingerprint for part in [*parts, *held_out] if split in part]
            for name, split in (("training", "train"), ("held_out", "validation"))
        }
        digests = {name: digest({}, {"parts": content}) for name, content in contents.items()}
        return tokenizer, [write(plan) for plan in plans], digests

    def _tokenizer(self, training: Sequence[Part], objective: TextObjective) -> TextTokenizer:
        """Loads the tokenizer, or trains it once and keeps it in `data_dir`."""
        options: Any = self.resolved(objective)
        name, vocab_size = options.tokenizer, options.vocab_size
        if name not in VOCABULARIES:
            return with_prompt(load_tokenizer(name), name, self.prompt)
        self.check_trained()
        facts = (name, vocab_size, TOKENIZER_CHARACTERS, [part.fingerprint for part in training])
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        file = at_home(self.data_dir) / "qtx_tokenizer" / key / "tokenizer.json"
        if not file.is_file():
            tokenizer = VOCABULARIES[name](list(_beginnings(training)), vocab_size)
            keep(with_checksum(file, tokenizer.backend.to_str(pretty=True).encode()))
        verify(file, Expected("a tokenizer that was trained here", "delete its folder to train it again"))
        return load_tokenizer(file)


def _beginnings(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        room = TOKENIZER_CHARACTERS // len(parts)
        for text in part.stream():
            yield text[:room]
            room -= len(text)
            if room <= 0:
                break
