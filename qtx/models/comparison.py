"""This module tells by which options two configs describe different models."""

from __future__ import annotations

from qtx.models.block import FROM_DATA, TransformerConfig

# Options that say how to compute, not what.
COMPUTATION = ("dtype", "remat", "attention_backend")
# Options that say how a model's hidden states become the embeddings that it is measured by; see `measured_by`.
MEASURED_BY = ("pooling", "normalize", "include_prompt")
# Options that matter in training alone: with another value, the model computes the same.
OF_TRAINING = ("dropout", "attention_dropout", "init_std")


def measured_by(modules: str) -> tuple[str, ...]:
    """Returns the options that say only how a model is measured, given its option `modules`: with modules the model
    computes its embeddings itself, so that they say what it computes."""
    return () if modules else MEASURED_BY


def differing_options(one: TransformerConfig, other: TransformerConfig) -> list[str]:
    """Returns the options by which two configs, once resolved, describe different models: all of `other` if the
    families differ. Options that say how to compute, measure or train are no difference, nor are options that one
    config leaves to the data."""
    one, other = one.resolved(), other.resolved()
    free = (*COMPUTATION, *measured_by(getattr(other, "modules", "")), *OF_TRAINING)
    options = [option for option in vars(other) if option not in free]
    if type(one) is not type(other):
        return options

    def differs(option: str) -> bool:
        its, own = getattr(one, option), getattr(other, option)
        return its != own and not (option in FROM_DATA and None in (its, own))

    return [option for option in options if differs(option)]
