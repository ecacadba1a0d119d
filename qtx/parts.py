"""Parts: the words in which a module declares what its output is to a transformer."""

from __future__ import annotations

import enum


class Part(enum.Enum):
    """A `Part` says what a site holds, or a dense layer computes: declared where it is made, not told by its name."""

    EMBEDDED = "what is embedded, as wide as the residual stream, before the stream begins"
    RESIDUAL = "a sum of the residual stream"
    NORM = "the output of a norm of the residual stream"
    BRANCH = "what a branch adds to the residual stream"
    QUERY = "queries"
    KEY = "keys"
    VALUE = "values"
    SCORES = "attention scores"
    PROBS = "attention probabilities"
    CONTEXT = "the probabilities' mean of the values"
    GATE = "the openness of a gate, or what predicts it"
    PREACTIVATION = "the inputs of a feed-forward network's activation function"
    HIDDEN = "the outputs of a feed-forward network's activation function"
    PROJECTED = "the residual stream, in another width for the head"
    HEAD = "what a head computes of the residual stream"
    OTHER = "none of these"
