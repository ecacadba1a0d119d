"""This module finds, by measuring, the relief of a decoder: the prefix and the scaled units with which integers do the
least harm before anything is trained (`qtx.training.relief`)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qtx.analysis.capture import FloatingPoint
from qtx.analysis.writers import Writer, spike_writers
from qtx.anatomy import read as read_anatomy
from qtx.families import build
from qtx.foundation.batch import Batch
from qtx.losses.distillation import next_token_nll
from qtx.masks import token_mask
from qtx.pipeline.run import TrainedRun
from qtx.quantization import calibrate
from qtx.sites import capture
from qtx.training.relief import ReliefConfig, relieved

CALIBRATED_ON, MEASURED_ON = 4, 4
"""The batches of training data that ranges are made of, and the further ones that perplexity is measured on."""
SPIKED = 3
"""How many of the tokens with the largest values are tried as prefixes."""
MOST_WRITTEN = (100.0, 50.0, 25.0)
"""How much a hidden unit may write, in what the median unit of its layer does: those that write more are scaled."""
AFFORDABLE = math.log(1.06)
"""How much of the log-perplexity in floating point scaling may cost."""
NEWLINE = "\n"
RESIDUAL = "layers/mlp_residual"


class Tried(NamedTuple):
    """A relief, with the perplexities that it leaves in floating point and in integers, without training."""

    relief: ReliefConfig
    floating: float
    quantized: float


def can_have_relief(run: TrainedRun) -> bool:
    """Says whether the run's model is a decoder with next-token logits that can have a prefix, and has none."""
    model = run.assembled.experiment.model
    able = model.causal and "prefix" in {field.name for field in dataclasses.fields(model)}
    return able and not model.prefix and model.head == "clm"


def find_relief(
    run: TrainedRun, bits: str, prefix: bool = True, tell: Callable[[str], Any] = lambda line: None
) -> ReliefConfig:
    """Returns the relief of a decoder with the lowest perplexity in integers: of the tokens that may stand before
    all texts, then, behind the best of them, of the units that write spikes, scaled to some bounds: all of them, for
    what one unit writes into the stream another erases.

    Args:
      run: the run of the original.
      bits: the scheme, e.g. "w8a8".
      prefix: whether a token may stand before all texts; else units alone are scaled.
      tell: is called with a line about each.
    """
    batches = list(itertools.islice(_plain(run), CALIBRATED_ON + MEASURED_ON))

    def measured(relief: ReliefConfig) -> Tried:
        one = _measured(run, bits, relief, batches)
        tell(f"{in_words(run, relief)}: perplexity {one.floating:.1f}, in {bits.upper()} {one.quantized:.4g}")
        return one

    plain = measured(ReliefConfig())
    tokens = _tokens(run, batches) if prefix else []
    best = min((plain, *(measured(ReliefConfig((token,))) for token in tokens)), key=_quantized)
    behind, writers = best.relief, _writers(run, best.relief, batches[:CALIBRATED_ON])
    for units in filter(None, (units_of(writers, most) for most in MOST_WRITTEN)):
        one = measured(dataclasses.replace(behind, units=units))
        affordable = math.log(one.floating) <= math.log(plain.floating) + AFFORDABLE
        best = min(best, one, key=_quantized) if affordable else best
    return best.relief


def units_of(writers: Iterable[Writer], most: float) -> tuple[str, ...]:
    """Returns the units that write more than `most` medians, each with the factor that leaves it so much, as
    `ReliefConfig` has them."""
    return tuple(f"{one.layer}:{one.unit}={most / one.ratio:.2g}" for one in writers if one.ratio > most)


def in_words(run: TrainedRun, relief: ReliefConfig) -> str:
    """Says what a relief is, with the text of its tokens."""
    tokenizer = run.assembled.data.tokenizer
    texts = [repr(tokenizer.tokens([token])[0]) if tokenizer else str(token) for token in relief.prefix]
    prefix = f"{' and '.join(texts)} before every text" if texts else "as it came"
    scaled = f", hidden units {' '.join(relief.units)}" if relief.units else ""
    sinks = ", sinks that begin with the scores of the first token" if relief.sinks else ""
    return prefix + scaled + sinks


def _quantized(one: Tried) -> float:
    return one.quantized


def _plain(run: TrainedRun) -> Iterator[Batch]:
    """Yields batches of training data without a teacher's outputs."""
    names = ("tokens", "mask", "weights")
    for batch in run.assembled.calibration():
        yield {name: batch[name] for name in names if name in batch}


def _tokens(run: TrainedRun, batches: Sequence[Batch]) -> list[int]:
    """Returns the tokens to try: what texts begin and end with, a new line, and those whose values are largest."""
    tokenizer, vocabulary = run.assembled.data.tokenizer, run.assembled.experiment.model.vocab_size
    found: list[int] = []
    if tokenizer is not None:
        found += [tokenizer.start, tokenizer.end]
        found += tokenizer.backend.encode(NEWLINE, add_special_tokens=False).ids[:1]
    largest: dict[int, float] = {}
    for batch in batches[:CALIBRATED_ON]:
        tokens = np.asarray(batch["tokens"])[:, 1:]
        values = np.asarray(_largest_values(run.assembled.module, run.floating_point, batch))[:, 1:]
        for token, value in zip(tokens.ravel(), values.ravel(), strict=True):
            largest[int(token)] = max(largest.get(int(token), 0.0), float(value))
    spiked = sorted(largest, key=lambda token: -largest[token])[:SPIKED]
    return [token for token in dict.fromkeys([*found, *spiked]) if token < vocabulary]


@functools.partial(jax.jit, static_argnums=0)
def _largest_values(module: Any, params: Any, batch: Batch) -> jax.Array:
    """Returns the largest magnitude of each token's residual stream over all layers, `[B, T]`."""
    captured = capture(module.apply, (RESIDUAL,), {"params": params}, batch)[1][RESIDUAL]
    return jnp.where(token_mask(batch, captured.shape[2], module), jnp.abs(captured).max(axis=(0, 3)), 0.0)


def _with(run: TrainedRun, relief: ReliefConfig) -> tuple[Any, Any]:
    """Returns the module and the parameters of a run's model under a relief."""
    original = run.assembled.module
    module = build(dataclasses.replace(run.assembled.experiment.model, prefix=len(relief.prefix)))
    return module, relieved(relief, module, original, run.floating_point)


def _writers(run: TrainedRun, relief: ReliefConfig, batches: Sequence[Batch]) -> list[Writer]:
    module, params = _with(run, relief)
    return spike_writers(module, params, batches, read_anatomy(module, batches[0]))


def _measured(run: TrainedRun, bits: str, relief: ReliefConfig, batches: Sequence[Batch]) -> Tried:
    module, params = _with(run, relief)
    quantization = run.assembled.experiment.quantization
    recipe = quantization.make_recipe(bits, module.config)
    quantized = calibrate(module, params, recipe, batches[:CALIBRATED_ON], CALIBRATED_ON)
    held = batches[CALIBRATED_ON:]
    return Tried(relief, _perplexity(FloatingPoint(module, params), held), _perplexity(quantized, held))


def _perplexity(model: Any, batches: Iterable[Batch]) -> float:
    sums = np.sum([np.asarray(_nll(model, batch), np.float64) for batch in batches], axis=0)
    return math.exp(min(sums[0] / sums[1], 700.0))


@jax.jit
def _nll(model: Any, batch: Batch) -> jax.Array:
    """Returns the negative log-likelihood of a batch's tokens that follow others, in nats, and their number, `[2]`."""
    tokens = batch["tokens"]
    return jnp.stack(next_token_nll(model.apply(batch), tokens, token_mask(batch, tokens.shape[1])))
