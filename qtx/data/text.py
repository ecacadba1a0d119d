"""The common part of text sources: their options, and the making of `Data` from documents (split, tokenize, pack)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any, Self

import numpy as np

from qtx.data.dataset import Data
from qtx.data.masking import num_predictions
from qtx.data.notes import copies, described, noted
from qtx.data.objectives import MakeExample, Objective, TextObjective, name_of, names_where
from qtx.data.packing import document_segments, pack
from qtx.data.prompts import with_prompt
from qtx.data.tokenization import TextTokenizer
from qtx.data.tokenizer_files import load_tokenizer
from qtx.data.vocabularies import VOCABULARIES
from qtx.foundation.batch import Batch
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least

DEFAULT_VOCAB_SIZE = 4096


@dataclass(frozen=True)
class TokenizedOptions(Checked):
    """Options of every source of text.

    Attributes:
      sequence_length: T, tokens per example.
      tokenizer: `"wordpiece"` or `"bpe"` to train one on the training documents, or a path for `load_tokenizer`;
        None is the objective's: BPE for causal language modelling, WordPiece for all others.
      vocab_size: entries of a tokenizer to train, None is 4096; not taken with a loaded one.
      prompt: the name of a prompt in config_sentence_transformers.json beside the tokenizer, which is put before every
        text; None: none.
    """

    sequence_length: Annotated[int, at_least(4)] = 128
    tokenizer: str | None = None
    vocab_size: int | None = None
    prompt: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size is not None and self.tokenizer not in (None, *VOCABULARIES):
            raise QtxError(
                f"vocab_size is set, but tokenizer {self.tokenizer} is loaded, not trained: leave vocab_size unset, or "
                f"set tokenizer to one of {', '.join(VOCABULARIES)}"
            )

    def resolved(self, objective: TextObjective) -> Self:
        """Returns the same options, with those left at None set to what they mean for an objective."""
        meant = self.defaults(objective)
        return replace(self, **{name: value for name, value in meant.items() if getattr(self, name) is None})

    def defaults(self, objective: TextObjective) -> dict[str, Any]:
        """Returns what options mean for an objective if they are left at None."""
        trained = (self.tokenizer or objective.tokenizer) in VOCABULARIES
        return {"tokenizer": objective.tokenizer, "vocab_size": DEFAULT_VOCAB_SIZE if trained else None}

    def pairs(self, objective: TextObjective) -> bool:
        """Says whether an example is of two texts, and so has token types; unless overridden, it is not."""
        return False

    def make_tokenizer(self, texts: Sequence[str], objective: TextObjective) -> TextTokenizer:
        """Trains the tokenizer on `texts`, or loads it."""
        options: Any = self.resolved(objective)
        if options.tokenizer in VOCABULARIES:
            self.check_trained()
            return VOCABULARIES[options.tokenizer](texts, options.vocab_size)
        return with_prompt(load_tokenizer(options.tokenizer), options.tokenizer, self.prompt)

    def check_trained(self) -> None:
        """Raises QtxError if there is no prompt to be had, since the tokenizer is trained here."""
        if self.prompt:
            raise QtxError(
                f"prompt is {self.prompt!r}, but the tokenizer is trained here, beside no prompts: leave it unset, or "
                "set tokenizer to the folder of a sentence-transformers model"
            )


def prompted(example: MakeExample, tokenizer: TextTokenizer, length: int) -> MakeExample:
    """Makes a function whose examples say, as `prompt`, how many of their tokens are before the text's own; without a
    prompt it is `example`."""
    if not tokenizer.prompt:
        return example
    number = np.int32(tokenizer.prompt_length(length))
    return lambda block, rng: {**example(block, rng), "prompt": number}


@dataclass(frozen=True)
class TextOptions(TokenizedOptions):
    """Options of every source of text without labels, whose documents are packed into blocks.

    Attributes:
      mask_probability: share of a block's tokens to predict, None is 0.15; taken only by objectives that mask.
      min_length: each block is cut to a random number of tokens, from this to `sequence_length`, ended and padded, so
        that texts of all lengths are seen; None: all have `sequence_length`. Taken only by objectives that pad.
      document_attention: whether a token attends only within its own document; otherwise within its block, where only
        the token between documents sets them apart.
    """

    mask_probability: float | None = None
    min_length: int | None = None
    document_attention: bool = False

    def __post_init__(self):
        super().__post_init__()
        if self.min_length is not None and not 3 <= self.min_length <= self.sequence_length:
            raise QtxError(
                f"min_length is {self.min_length}: expected from 3 tokens to sequence_length {self.sequence_length}"
            )
        if self.mask_probability is not None:
            num_predictions(self.mask_probability, self.sequence_length)

    @staticmethod
    def serves(objective: Objective) -> bool:
        return isinstance(objective, TextObjective) and not objective.labelled

    def defaults(self, objective: TextObjective) -> dict[str, Any]:
        return super().defaults(objective) | {"mask_probability": objective.mask_probability}

    def make_data(
        self,
        name: str,
        training: Sequence[str],
        held_out: Sequence[str],
        objective: TextObjective,
        mended: Mapping[str, int] = MappingProxyType({}),
    ) -> Data:
        """Tokenizes and packs both splits.

        Args:
          name: the source's name, for the description.
          training: the training documents; a tokenizer is trained on these alone.
          held_out: the documents for evaluation.
          objective: what the examples are made for.
          mended: counts of what was mended when the texts were read, for the description; see `qtx.data.notes`.

        Raises:
          QtxError: for options that do not fit the objective, the text or the tokenizer.
        """
        self.check_objective(objective)
        tokenizer = self.make_tokenizer(training, objective)
        length = self.sequence_length
        block_length = self.packed_length(tokenizer, objective)
        blocks = {
            split: pack(
                tokenizer.encode(texts, f"{name}: the {split} text"),
                tokenizer.start,
                tokenizer.end,
                block_length,
                split,
            )
            for split, texts in (("training", training), ("held-out", held_out))
        }
        return Data(
            description=described(
                f"{name}: {len(training)} training and {len(held_out)} held-out documents, "
                f"{len(blocks['training']):,} and {len(blocks['held-out']):,} blocks of {length} tokens, "
                f"vocabulary {tokenizer.vocab_size:,}",
                noted({**mended, **copies(training, held_out)}),
            ),
            training=blocks["training"],
            held_out=blocks["held-out"],
            example=self.make_example(tokenizer, objective),
            vocab_size=tokenizer.vocab_size,
            sequence_length=length,
            tokenizer=tokenizer,
            digests={"training": texts_digest(training), "held_out": texts_digest(held_out)},
        )

    def check_objective(self, objective: TextObjective) -> None:
        """Raises QtxError for an option that the objective does not take."""
        if self.prompt and not objective.taught:
            raise QtxError(
                f"prompt is set, but objective {name_of(objective)} learns a text's tokens: leave it unset, or choose "
                f"{names_where(lambda other: other.taught)}"
            )
        if self.min_length is not None and not objective.pads:
            raise QtxError(
                f"min_length is set, but examples of objective {name_of(objective)} all have the full length: leave it "
                f"unset, or choose {names_where(lambda other: other.pads)}"
            )
        if self.mask_probability is not None and not objective.masks:
            raise QtxError(
                f"mask_probability is set, but objective {name_of(objective)} masks nothing: leave it unset, or choose "
                f"{names_where(lambda other: other.masks)}"
            )

    def packed_length(self, tokenizer: TextTokenizer, objective: TextObjective) -> int:
        """Returns L, the ids in a block from which an example is made, without those of a prompt.

        Raises:
          QtxError: if the prompt leaves no room for a text.
        """
        before = len(tokenizer.prompt_ids) if tokenizer.prompt else 0
        shortest = self.sequence_length if self.min_length is None else self.min_length
        if before and shortest < before + 3:
            option = "sequence_length" if self.min_length is None else "min_length"
            raise QtxError(f"{option} is {shortest}, but the prompt takes {before}: expected {before + 3} or more")
        return objective.block_length(self.sequence_length) - before

    def make_example(self, tokenizer: TextTokenizer, objective: TextObjective) -> MakeExample:
        """Returns the function that makes an example of a block int32 [L]; a prompt follows the block's first id.

        Raises:
          QtxError: for an objective that masks with a tokenizer that has no mask token.
        """
        length = self.sequence_length
        if objective.masks and tokenizer.mask is None:
            raise QtxError(
                f"objective {name_of(objective)} needs a tokenizer with [MASK] or <mask>: use wordpiece, or objective "
                f"{names_where(lambda other: not other.masks)}"
            )
        mask_probability = self.resolved(objective).mask_probability
        predictions = 0 if mask_probability is None else num_predictions(mask_probability, length)
        example = objective.example(tokenizer, predictions)
        if self.min_length is not None:
            example = of_random_length(example, self.min_length, tokenizer)

        def with_segments(block: np.ndarray, rng: np.random.Generator) -> Batch:
            segments = document_segments(block[:length], tokenizer.end, objective.ends_document)
            return {**example(block, rng), "segments": segments}

        made = with_segments if self.document_attention else example
        if not tokenizer.prompt:
            return made
        made = prompted(made, tokenizer, length)
        return lambda block, rng: made(np.concatenate([block[:1], tokenizer.prompt_ids, block[1:]]), rng)


def of_random_length(example: MakeExample, shortest: int, tokenizer: TextTokenizer) -> MakeExample:
    """Makes a function whose examples are cut to a random length from `shortest` on, ended as a text, and padded."""
    after = np.array(tokenizer.template.after, np.int32)

    def shortened(block: np.ndarray, rng: np.random.Generator) -> Batch:
        length = int(rng.integers(shortest, len(block) + 1))
        made = example(block, rng)
        tokens, mask = made["tokens"].copy(), made["mask"] & (np.arange(len(block)) < length)
        tokens[length - len(after) : length] = after
        tokens[length:] = tokenizer.pad
        return {**made, "tokens": tokens, "mask": mask}

    return shortened


def texts_digest(texts: Sequence[str]) -> str:
    """Returns the SHA-256 of texts in their order, wherever they are from and however they are cut."""
    whole = hashlib.sha256()
    for text in texts:
        content = text.encode()
        # The length comes first, so that two texts differ from the one that they make together.
        whole.update(f"{len(content)} ".encode())
        whole.update(content)
    return whole.hexdigest()
