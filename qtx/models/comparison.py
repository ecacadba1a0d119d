"""In what two configs are of different models."""

from __future__ import annotations

from qtx.models.block import FROM_DATA, TransformerConfig

# How to compute, not what.
COMPUTATION = ("dtype", "remat", "attention_backend")
# How the embeddings that a model is measured by are made of its hidden states.
MEASURED_BY = ("pooling", "normalize")
# What training may have taken another value for: the model computes the same.
OF_TRAINING = ("dropout", "attention_dropout", "init_std")


def differing_options(one: TransformerConfig, other: TransformerConfig) -> list[str]:
    """The options by which two configs, once both are resolved, are of different models: all of `other` if they are of
    two families. Options that say how to compute, measure or train, and those that one of them leaves to the data, are
    no difference."""
    one, other = one.resolved(), other.resolved()
    options = [option for option in vars(other) if option not in (*COMPUTATION, *MEASURED_BY, *OF_TRAINING)]
    if type(one) is not type(other):
        return options

    def differs(option: str) -> bool:
        its, own = getattr(one, option), getattr(other, option)
        return its != own and not (option in FROM_DATA and None in (its, own))

    return [option for option in options if differs(option)]
