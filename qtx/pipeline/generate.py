"""Greedy generation: a causal model goes on with a text, the likeliest token at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qtx.analysis.capture import FloatingPoint
from qtx.attention.fused import AUTO
from qtx.attention.past import CACHE
from qtx.foundation.errors import QtxError
from qtx.interop.ends import ends_of
from qtx.models import TransformerConfig
from qtx.pipeline.lineage import original_of
from qtx.pipeline.run import TrainedRun
from qtx.quantization import Quantized

TOKENS = 20
"""How many tokens are generated unless the user says."""


def generate(run: TrainedRun, model: FloatingPoint | Quantized, prompt: str, tokens: int = TOKENS) -> str:
    """Returns how a model goes on with a text: at each step by the likeliest token, until one ends the text.

    Args:
      run: the run.
      model: the run's model, in floating point or quantized.
      prompt: the text.
      tokens: the most tokens that are generated.

    Raises:
      QtxError: if the model generates no text, or prompt and tokens do not fit into its positions.
    """
    config, tokenizer = run.assembled.experiment.model, run.assembled.data.tokenizer
    check_generates(config)
    if tokenizer is None:
        raise QtxError(
            f"{run.workdir} generates no text: its data, {run.assembled.data.description}, have no tokenizer"
        )
    if tokens < 1:
        raise QtxError(f"tokens is {tokens}: expected 1 or more")
    # What a template puts after a text would end it.
    ids = [*tokenizer.template.before, *tokenizer.encode([prompt], "the prompt")[0].tolist()]
    if not ids:
        raise QtxError("the prompt has no tokens: give a word to begin with")
    longest = getattr(config, "max_length", None)
    if longest is not None and len(ids) + tokens > longest:
        fit = f"ask for {longest - len(ids)} tokens, or shorten" if len(ids) < longest else "shorten"
        raise QtxError(
            f"the prompt has {len(ids)} tokens and {tokens} are to follow, but the model has {longest} positions: "
            f"{fit} the prompt"
        )
    original = original_of(run.assembled.experiment, run.workdir)
    ends = () if original is None else ends_of(original)
    eos = tokenizer.backend.token_to_id(tokenizer.roles.get("eos", ""))
    found = continued(model, ids, tokens, ends or (eos,))
    return tokenizer.decode([*ids, *found]).removeprefix(tokenizer.decode(ids))


def check_generates(config: TransformerConfig) -> None:
    """Raises QtxError unless models of a config generate text."""
    if not config.causal or config.reads != "tokens":
        raise QtxError(f"a {type(config).__name__} generates no text: expected a causal model, such as an OPT")


def continued(
    model: FloatingPoint | Quantized, prompt: Sequence[int], number: int, ends: Collection[int | None] = ()
) -> list[int]:
    """Returns the tokens by which a model goes on: each is the likeliest after those before it.

    Args:
      model: a causal model, whose batches may have a `past`.
      prompt: the tokens of a text, at least one.
      number: the most tokens that are generated.
      ends: the tokens that end a text; the first that is generated is the last.
    """
    # Fused backends compute no queries that begin after the keys.
    config = dataclasses.replace(model.module.config, attention_backend=AUTO)
    model = dataclasses.replace(model, module=model.module.clone(config=config))
    token, cache = _begun(model, np.asarray([prompt], np.int32), number)
    found = [int(token[0, 0])]
    while len(found) < number and found[-1] not in ends:
        token, cache = _gone_on(model, token, len(prompt) + len(found) - 1, cache)
        found.append(int(token[0, 0]))
    return found


@functools.partial(jax.jit, static_argnames="number")
def _begun(model: FloatingPoint | Quantized, tokens: jax.Array, number: int) -> tuple[jax.Array, Any]:
    """Returns the token `[1, 1]` after a prompt `[1, T]`, and the prompt's keys and values, with room for more."""
    logits, variables = model.apply({"tokens": tokens}, mutable=[CACHE])

    def with_room(x):  # [layers, B, S, K, D]
        return jnp.pad(x, [(0, number if axis == x.ndim - 3 else 0) for axis in range(x.ndim)])

    return _likeliest(logits), jax.tree.map(with_room, variables[CACHE])


@functools.partial(jax.jit, donate_argnames="cache")
def _gone_on(model: FloatingPoint | Quantized, token: jax.Array, past: Any, cache: Any) -> tuple[jax.Array, Any]:
    """Returns the token `[1, 1]` after a token `[1, 1]` with `past` positions before it, and the cache."""
    logits, variables = model.apply({"tokens": token, "past": past}, {CACHE: cache}, mutable=[CACHE])
    return _likeliest(logits), variables[CACHE]


def _likeliest(logits: jax.Array) -> jax.Array:
    return jnp.argmax(logits[:, -1:], axis=-1).astype(jnp.int32)
