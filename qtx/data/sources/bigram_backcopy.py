"""Bigram-Backcopy, the synthetic language in which one attention head must act at some tokens and rest at all others.

Guo et al. 2024, "Active-Dormant Attention Heads" (arXiv 2410.13835). Over a vocabulary with triggers S, a sequence is
v_0 = BOS, v_1 ~ pi restricted to non-triggers, and for k >= 1

    v_{k+1} ~ P(. | v_k)   if v_k is not in S   (an order-1 Markov chain: no attention needed)
    v_{k+1} = v_{k-1}      if v_k is in S       (a copy of the token before the trigger: a head must look one back)

As v_1 is no trigger, two triggers are never adjacent and the copied token is neither a trigger nor BOS. At non-triggers
the copying head has nothing to add, but softmax must attend: the head learns to rest on BOS, an attention sink.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from qtx.data.dataset import Data
from qtx.data.listing import expand
from qtx.data.objectives import CausalLanguageModelling, Objective
from qtx.data.objectives.causal import causal_example
from qtx.data.reading import read_text
from qtx.foundation.errors import QtxError
from qtx.foundation.limits import Checked, at_least
from qtx.foundation.storage import digest

BOS = 0
TRAINING_SEQUENCES = 1 << 20
"""Sequences are generated on demand, each from its own index: a million is as good as endless."""
HELD_OUT_SEQUENCES = 1024
CONCENTRATION = 0.1
"""Concentration of the Dirichlet prior of a random chain's rows: few successors are likely, as of letters."""


@dataclass(frozen=True)
class BigramBackcopy(Checked):
    """Markov text with a copying task; the triggers are the most frequent tokens.

    Attributes:
      sequence_length: T, tokens per sequence with BOS.
      vocab_size: number of tokens, BOS (id 0) included.
      num_triggers: how many tokens are triggers.
      files: paths or globs of text whose `vocab_size - 1` most frequent characters, and the frequencies of their pairs,
        give P and pi, as in the paper; None draws the rows of P from a Dirichlet distribution (concentration 0.1).
      chain_seed: decides a random P and the sequences; the order in training comes from the experiment's seed.
    """

    sequence_length: Annotated[int, at_least(4)] = 128
    vocab_size: Annotated[int, at_least(4, "for BOS, a trigger and two others")] = 64
    num_triggers: int = 3
    files: tuple[str, ...] | None = None
    chain_seed: Annotated[int, at_least(0)] = 0

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.num_triggers <= self.vocab_size - 3:
            raise QtxError(f"num_triggers is {self.num_triggers}: expected 1 to {self.vocab_size - 3} (vocab_size - 3)")

    @staticmethod
    def serves(objective: Objective) -> bool:
        return type(objective) is CausalLanguageModelling  # the examples are made here, and not by a subclass

    def load(self, objective: Objective) -> Data:
        chain = self.make_chain()
        triggers = sorted(np.argsort(-chain.stationary, kind="stable")[: self.num_triggers] + 1)
        # Rounded: the last digits of a probability depend on the processor.
        facts = {"transitions": chain.transitions.round(9), "triggers": np.array(triggers)}
        training, held_out = (
            Sequences(chain, triggers, self.sequence_length + 1, count, (self.chain_seed, split))
            for split, count in enumerate((TRAINING_SEQUENCES, HELD_OUT_SEQUENCES))
        )
        origin = f"characters of {' '.join(self.files)}" if self.files else f"random chain {self.chain_seed}"
        return Data(
            description=(
                f"bigram_backcopy: {origin}, {self.vocab_size} tokens, triggers {', '.join(map(str, triggers))}, "
                f"sequences of {self.sequence_length}, {HELD_OUT_SEQUENCES:,} held out"
            ),
            training=training,
            held_out=held_out,
            example=lambda sequence, rng: causal_example(sequence),
            vocab_size=self.vocab_size,
            sequence_length=self.sequence_length,
            digests={
                name: digest(facts, {"seed": self.chain_seed, "split": split})
                for split, name in enumerate(("training", "held_out"))
            },
        )

    def make_chain(self) -> Chain:
        """Makes the Markov chain: estimates it from `files`, or draws it."""
        states = self.vocab_size - 1
        if self.files is None:
            rng = np.random.default_rng(self.chain_seed)
            return Chain(rng.dirichlet(np.full(states, CONCENTRATION), size=states))
        text = "".join(read_text(path) for path in expand(self.files))
        by_frequency = sorted(Counter(text).items(), key=lambda item: (-item[1], item[0]))
        kept = [character for character, _ in by_frequency[:states]]
        if len(kept) < states:
            raise QtxError(
                f"vocab_size {self.vocab_size} is too large: the text has {len(kept)} distinct characters, "
                f"set data.vocab_size to at most {len(kept) + 1}"
            )
        state = {character: i for i, character in enumerate(kept)}
        pairs = Counter(pair for pair in itertools.pairwise(text) if pair[0] in state and pair[1] in state)
        counts = np.zeros((states, states))
        for (first, second), count in pairs.items():
            counts[state[first], state[second]] = count
        # A character that nothing follows (the text's last) may be followed by anything.
        counts[counts.sum(axis=1) == 0] = 1.0
        return Chain(counts / counts.sum(axis=1, keepdims=True))


class Chain:
    """An order-1 Markov chain over K states.

    Attributes:
      transitions: P, float64 [K, K], rows sum to 1.
      stationary: pi with pi P = pi, float64 [K].
    """

    def __init__(self, transitions: np.ndarray):
        states = len(transitions)
        self.transitions = transitions
        # pi (P - I) = 0 and sum(pi) = 1, in the least-squares sense.
        equations = np.vstack([transitions.T - np.eye(states), np.ones(states)])
        solution = np.linalg.lstsq(equations, np.append(np.zeros(states), 1.0), rcond=None)[0]
        self.stationary = np.maximum(solution, 0.0) / np.maximum(solution, 0.0).sum()


class Sequences:
    """Bigram-Backcopy sequences, each int32 [length] with BOS first, generated from (seed, index) when asked for."""

    def __init__(self, chain: Chain, triggers: Sequence[int], length: int, count: int, seed: tuple[int, int]):
        self._length, self._count, self._seed = length, count, seed
        self._triggers = frozenset(int(trigger) for trigger in triggers)
        # Cumulative rows as lists: bisect on a list draws a token about ten times as fast as numpy's choice.
        self._rows = [row.tolist() for row in np.cumsum(chain.transitions, axis=1)]
        first = chain.stationary.copy()
        first[[trigger - 1 for trigger in self._triggers]] = 0.0
        self._first = np.cumsum(first / first.sum()).tolist()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        # The key is the chain's seed and the split, the counter starts at the index: every sequence has its own stream.
        counter = np.array([0, 0, 0, index], np.uint64)
        rng = np.random.Generator(np.random.Philox(key=np.array(self._seed, np.uint64), counter=counter))
        sequence = [BOS]
        for k, draw in enumerate(rng.random(self._length - 1).tolist()):
            last = sequence[k]
            if last in self._triggers:
                sequence.append(sequence[k - 1])
                continue
            row = self._rows[last - 1] if k else self._first
            # The last sum may fall short of 1 by rounding.
            sequence.append(min(bisect_right(row, draw), len(row) - 1) + 1)
        return np.array(sequence, np.int32)
