"""This module computes attention by blocks, in memory linear in T: the probabilities of a softmax-like normalizer times
the values, forward and backward, without ever storing the `[T, T]` scores or probabilities.

With P = softmax(S), S = Q K^T over the visible keys (and an empty one), and C = finish(P), elementwise,

    forward   L_i = log sum_j exp(S_ij)                                  a first sweep over blocks of keys
              O = C V,  W = (finish'(P) P) V                             a second
    backward  dC = dO V^T,  dP = finish'(P) dC,  D_i = dO_i . W_i        one sweep
              dS = P (dP - D),  dV = C^T dO,  dQ = dS K,  dK = dS^T Q

where D_i is sum_j P_ij dP_ij, as in the gradient of a softmax, with dO taken out of the sum: FlashAttention's dO . O
(Dao et al. 2022, arXiv 2205.14135) is the case finish'(P) P = C. If nothing is finished, one forward sweep with a
running maximum is enough, and W is O. If one block has all keys, one forward sweep is enough, too, and D is summed
directly, without W. A causal mask may be cut into spans of queries, each of which has no keys beyond its last query.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from qtx.attention.fused.backend import Backend, beyond_scores
from qtx.attention.fused.tiles import LOWEST, Blocking, Blocks, FusedSpec, NoGradient, Tiles, sum_dtype
from qtx.attention.normalizers import Rows, SoftmaxLike

MOST_POSITIONS = 2**30

VALUES = 512 * 512
"""The number of scores in a block of whole rows: in float32, half of a core's cache."""
MOST_KEYS = 8192
"""The most keys of a block of whole rows, which then has 32 queries."""
FEW_KEYS = 1024
"""The number of keys below which whole rows are faster than blocks of keys even where nothing is finished."""
SPAN = 256
"""The fewest queries of a span of a causal mask."""
MOST_SPANS = 4
"""With 4 spans, 5/8 of the scores are computed; 8 would be 0 to 5 % faster, and take twice as long to compile."""


class Inputs(NamedTuple):
    """The inputs that have a gradient: query, key, value `[B, H, T, D]`, the query scaled; the normalizer's parameters;
    and the logit of the empty key, `[B, H, T, 1]` float32, or None."""

    query: jax.Array
    key: jax.Array
    value: jax.Array
    parameters: Mapping[str, jax.Array]
    empty: jax.Array | None


class Blockwise(Backend):
    """The backend for softmax-like normalizers, on any device."""

    def refusal(self, case):
        if case.shape[1] > MOST_POSITIONS:
            return f"{case.shape[1]} positions, which int32 does not count"
        if refusal := beyond_scores(case):
            return refusal
        if not isinstance(case.normalizer, SoftmaxLike):
            return f"{type(case.normalizer).__name__}, which is not softmax-like"
        if type(case.normalizer).__call__ is not SoftmaxLike.__call__:
            return f"{type(case.normalizer).__name__}, which is more than the hooks of a softmax-like normalizer"
        return None

    def pays(self, case):
        # docs/performance.md has the measurements, of whole training steps. Accelerators are not measured yet.
        return case.platform == "cpu" and case.shape[1] >= 512

    def __call__(self, case, parameters, query, key, value, rows, dropout_key):
        spec = FusedSpec(case.normalizer, Blocks(512, 512), 0.0 if dropout_key is None else case.dropout)
        if case.platform == "cpu" and case.devices == 1:
            length, mask = rows.mask.queries, rows.mask
            blocks = Blocks(512, 512, 1, 1, skips=True)
            # If a normalizer finishes, whole rows save two products; in a window, blocks of keys leave out more.
            if (spec.finishes or length < FEW_KEYS) and length <= MOST_KEYS and mask.window is None:
                spans = max(1, min(length // SPAN, MOST_SPANS))
                blocks = Blocks(VALUES // length, length, 1, 1, spans=spans)
            spec = dataclasses.replace(spec, blocks=blocks)
        return attend(spec, parameters, query, key, value, rows, dropout_key)


def attend(
    spec: FusedSpec,
    parameters: Mapping[str, jax.Array],
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    rows: Rows,
    dropout_key: jax.Array | None = None,
) -> jax.Array:
    """Computes attention `[B, T, H, D]` of query, key and value `[B, T, H, D]`, the query scaled: what
    `normalizer(parameters, scores, rows)` returns, times the values; in float32, the products in the operands' dtype.

    Args:
      spec: the normalizer, and how to compute.
      parameters: the normalizer's parameters.
      query, key, value: see above.
      rows: which keys are seen.
      dropout_key: the key that draws the dropout, if there is any.
    """
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    empty = spec.normalizer.empty(parameters, rows)
    if empty is not None:
        empty = jnp.broadcast_to(empty.astype(sum_dtype(query)), (*query.shape[:3], 1))
    if spec.finishes:
        rows = rows._replace(seen=rows.visible())
    inputs = Inputs(query, key, value, dict(parameters), empty)
    numbers = jnp.arange(query.shape[0] * query.shape[1]).reshape(query.shape[:2])
    return jnp.swapaxes(_attend(spec, inputs, NoGradient(rows, dropout_key, numbers)), 1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(spec: FusedSpec, inputs: Inputs, context: NoGradient) -> jax.Array:
    return _over_heads(spec, functools.partial(_forward, spec, False), inputs, context)[0]


def _attend_forward(spec, inputs, context):
    out, lse, through = _over_heads(spec, functools.partial(_forward, spec, True), inputs, context)
    return out, (inputs, context, lse, out if through is None else through)


def _attend_backward(spec, saved, gradient):
    inputs, context, lse, through = saved
    along = (lse, through, gradient)
    gradients = _over_heads(spec, functools.partial(_backward, spec), inputs, context, along)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), gradients, inputs), None


_attend.defvjp(_attend_forward, _attend_backward)


def _over_heads(
    spec: FusedSpec, function: Callable[..., Any], inputs: Inputs, context: NoGradient, along: Any = ()
) -> Any:
    """Returns function(inputs, context, *along) for all heads of all examples: at once, or for a few at a time."""
    batch, heads = inputs.query.shape[:2]
    blocks = spec.blocks
    size = blocks.examples or batch, blocks.heads or heads
    if size == (batch, heads):
        return function(inputs, context, *along)
    axes, across = _head_axes(spec.normalizer, inputs), heads // size[1]

    def some(number):
        example, head = number // across * size[0], number % across * size[1]

        def of_examples(x):
            alike = jnp.ndim(x) == 0 or x.shape[0] == 1
            return x if alike else jax.lax.dynamic_slice_in_dim(x, example, size[0], 0)

        def of_heads(axis, x):
            return x if axis is None else jax.lax.dynamic_slice_in_dim(x, head, size[1], axis)

        def of_both(x):
            return of_heads(1, of_examples(x))

        parameters = {name: of_heads(axes[name], x) for name, x in inputs.parameters.items()}
        own = jax.tree.map(of_both, inputs._replace(parameters={}))._replace(parameters=parameters)
        rows = context.rows
        seen = None if rows.seen is None else of_examples(rows.seen)
        rows = rows._replace(mask=jax.tree.map(of_examples, rows.mask), seen=seen)
        there = context._replace(rows=rows, numbers=of_both(context.numbers))
        return function(own, there, *jax.tree.map(of_both, along))

    found = jax.lax.map(some, jnp.arange(batch // size[0] * across))

    def of_all(x):
        x = x.reshape(batch // size[0], across, *x.shape[1:])
        return jnp.moveaxis(x, 1, 2).reshape(batch, heads, *x.shape[4:])

    if not isinstance(found, Inputs):
        return jax.tree.map(of_all, found)

    def summed(name, x):
        x = x.reshape(batch // size[0], across, *x.shape[1:]).sum(axis=0)
        axis = axes[name]
        return x.sum(axis=0) if axis is None else jnp.moveaxis(x, 0, axis).reshape(inputs.parameters[name].shape)

    parameters = {name: summed(name, x) for name, x in found.parameters.items()}
    return jax.tree.map(of_all, found._replace(parameters={}))._replace(parameters=parameters)


def _head_axes(normalizer: SoftmaxLike, inputs: Inputs) -> dict[str, int | None]:
    """Returns the dimension of each parameter that is the heads'; None: the parameter has none."""
    wanted = normalizer.parameters(inputs.query.shape[1])
    return {name: p.axes.index("heads") if "heads" in p.axes else None for name, p in wanted.items()}


def _spans(spec: FusedSpec, inputs: Inputs, context: NoGradient) -> Iterator[tuple[Tiles, Inputs]]:
    """Yields runs of queries, with the keys that they may see."""
    length, rows = inputs.query.shape[2], context.rows
    spans = Blocking.of(length, math.ceil(length / (spec.blocks.spans if rows.mask.causal else 1)))
    for first in range(0, length, spans.size):
        last = min(first + spans.size, length)

        def of_queries(x, first=first, last=last):
            return None if x is None else x[:, :, first:last]

        own = Inputs(
            of_queries(inputs.query),
            inputs.key[:, :, :last],
            inputs.value[:, :, :last],
            inputs.parameters,
            of_queries(inputs.empty),
        )
        there = context._replace(rows=rows._replace(seen=of_queries(rows.seen)))
        yield Tiles.of(spec, there, first, last - first, last), own


def _forward(spec: FusedSpec, differentiated: bool, inputs: Inputs, context: NoGradient):
    """Computes O `[B, H, T, D]`, L `[B, H, T, 1]`, infinite where nothing is seen, and W; None: W is O, or unused."""
    found = [_forward_span(tiles, differentiated, own) for tiles, own in _spans(spec, inputs, context)]
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), *found)


def _forward_span(tiles: Tiles, differentiated: bool, inputs: Inputs):
    """Computes what `_forward` returns, for one span."""
    spec, queries, keys = tiles.spec, tiles.queries, tiles.keys
    query, key, value = queries.padded(inputs.query), keys.padded(inputs.key), keys.padded(inputs.value)
    empty = None if inputs.empty is None else queries.padded(inputs.empty)
    wide = sum_dtype(query)

    def product(probs, value):
        return jnp.einsum("bhts,bhsd->bhtd", probs.astype(value.dtype), value, preferred_element_type=wide)

    def of_queries(i):
        rows_query = queries.block(query, i)
        low, high = tiles.keys_of(i)
        nothing = jnp.zeros(rows_query.shape, wide)

        def weighed(scores, largest, total):
            larger = jnp.maximum(largest, scores.max(axis=-1, keepdims=True))
            weights, shrunk = jnp.exp(scores - larger), jnp.exp(largest - larger)
            return weights, shrunk, larger, total * shrunk + weights.sum(axis=-1, keepdims=True)

        def first_sweep(j, carry):
            largest, total, out = carry
            scores = tiles.scores(rows_query, keys.block(key, j), i, j)
            weights, shrunk, larger, total = weighed(scores, largest, total)
            if not spec.finishes:
                kept = tiles.kept(weights, i, j)
                weights = weights if kept is None else weights * kept
                out = out * shrunk + product(weights, keys.block(value, j))
            return larger, total, out

        largest = jnp.full((*rows_query.shape[:3], 1), LOWEST / 2, wide)
        total = jnp.zeros_like(largest)
        if empty is not None:
            logit = queries.block(empty, i)
            largest = jnp.maximum(largest, logit)
            total = jnp.exp(logit - largest)
        weights = None
        if tiles.whole_rows:
            weights, _, largest, total = weighed(tiles.scores(rows_query, key, i, 0), largest, total)
        else:
            carry = (largest, total, None if spec.finishes else nothing)
            largest, total, out = jax.lax.fori_loop(low, high, first_sweep, carry)
        alone = total == 0
        total = jnp.where(alone, 1.0, total)
        lse = jnp.where(alone, jnp.inf, largest + jnp.log(total))
        if weights is not None:
            finished, kept = tiles.finish(inputs.parameters, weights / total, i), tiles.kept(weights, i, 0)
            return product(finished if kept is None else finished * kept, value).astype(query.dtype), lse, None
        if not spec.finishes:
            return (out / total).astype(query.dtype), lse, None

        def second_sweep(j, carry):
            probs = jnp.exp(tiles.scores(rows_query, keys.block(key, j), i, j) - lse)
            finish = functools.partial(tiles.finish, inputs.parameters, i=i)

            def with_products(probs, out, through):
                kept, block = tiles.kept(probs, i, j), keys.block(value, j)

                def dropped(x):
                    return x if kept is None else x * kept

                if not differentiated:
                    return out + product(dropped(finish(probs)), block), None
                finished, slope = jax.jvp(finish, (probs,), (probs,))
                return out + product(dropped(finished), block), through + product(dropped(slope), block)

            return tiles.unless_dead(finish, probs, with_products, lambda probs, *carry: carry, *carry)

        out, through = jax.lax.fori_loop(low, high, second_sweep, (nothing, nothing if differentiated else None))
        return out.astype(query.dtype), lse, through

    def joined(x):
        """Joins blocks of queries, `[n, B, H, queries, ...]` -> `[B, H, T, ...]`."""
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])[:, :, : queries.length]

    if queries.number == 1:
        return of_queries(0)
    return jax.tree.map(joined, jax.lax.map(of_queries, jnp.arange(queries.number)))


def _backward(
    spec: FusedSpec, inputs: Inputs, context: NoGradient, lse: jax.Array, through: jax.Array, gradient: jax.Array
):
    """Computes the gradients of the inputs, float32."""
    found = []
    for tiles, own in _spans(spec, inputs, context):
        along = (x[:, :, tiles.first : tiles.first + tiles.queries.length] for x in (lse, through, gradient))
        found.append(_backward_span(tiles, own, *along))

    def joined(*parts):
        return jnp.concatenate(parts, axis=2)

    def summed(*parts):
        length = inputs.key.shape[2]
        return sum(jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0))) for x in parts)

    query, key, value, parameters, empty = zip(*found, strict=True)
    parameters = jax.tree.map(lambda *x: sum(x), *parameters)
    return Inputs(joined(*query), summed(*key), summed(*value), parameters, jax.tree.map(joined, *empty))


def _backward_span(tiles: Tiles, inputs: Inputs, lse: jax.Array, through: jax.Array, gradient: jax.Array) -> Inputs:
    """Computes the gradients of one span; those of keys and values cover only the span's keys."""
    spec, queries, keys = tiles.spec, tiles.queries, tiles.keys
    wide = sum_dtype(inputs.query)
    sums_rows = spec.finishes and tiles.whole_rows
    of_rows = jnp.zeros_like(lse)  # D
    if not sums_rows:
        of_rows = (gradient.astype(wide) * through.astype(wide)).sum(axis=-1, keepdims=True)
    query, key, value = queries.padded(inputs.query), keys.padded(inputs.key), keys.padded(inputs.value)
    of_out, of_rows, lse_padded = (queries.padded(x) for x in (gradient, of_rows, lse))
    parameters = inputs.parameters
    # XLA's CPU backend takes nearly twice as long if the probabilities are the transposed operand of a product; the
    # barrier keeps it from rewriting the product so.
    across_query, across_out = jax.lax.optimization_barrier((jnp.swapaxes(query, 2, 3), jnp.swapaxes(of_out, 2, 3)))

    def product(equation, x, y):
        dtype = inputs.query.dtype
        return jnp.einsum(equation, x.astype(dtype), y.astype(dtype), preferred_element_type=wide)

    def of_keys(j, carry):
        of_query, of_key, of_value, of_rows, of_parameters = carry
        block_key, block_value = keys.block(key, j), keys.block(value, j)

        def of_pair(i, carry):
            of_query, of_block_key, of_block_value, of_rows, of_parameters = carry
            rows_query, of_rows_out = queries.block(query, i), queries.block(of_out, i)
            probs = jnp.exp(tiles.scores(rows_query, block_key, i, j) - queries.block(lse_padded, i))
            of_block_rows = queries.block(of_rows, i)
            finish = functools.partial(tiles.finish, parameters, i=i)

            def with_products(probs, of_block_value, of_parameters):
                of_finished, kept = product("bhtd,bhsd->bhts", of_rows_out, block_value), tiles.kept(probs, i, j)
                of_finished = of_finished if kept is None else of_finished * kept
                finished, of_probs = probs, of_finished
                if spec.finishes:
                    finished, slope = jax.jvp(finish, (probs,), (jnp.ones_like(probs),))
                    of_probs = slope * of_finished
                    if parameters:
                        _, backward = jax.vjp(lambda p: tiles.finish(p, probs, i), parameters)
                        of_parameters = jax.tree.map(jnp.add, of_parameters, backward(of_finished)[0])
                finished = finished if kept is None else finished * kept
                of_block_value += product("bhdt,bhts->bhds", queries.block(across_out, i, 3), finished)
                summed = of_block_rows
                if sums_rows:
                    # A product, since XLA's CPU backend makes one slow spec of a sum and what is around it.
                    ones = jnp.ones((keys.size, 1), wide)
                    summed = jnp.einsum("bhts,sn->bhtn", probs * of_probs, ones, precision=jax.lax.Precision.HIGHEST)
                return probs * (of_probs - summed), summed, of_block_value, of_parameters

            def without(probs, *rest):
                return -probs * of_block_rows, of_block_rows, *rest

            of_scores, of_block_rows, of_block_value, of_parameters = tiles.unless_dead(
                finish, probs, with_products, without, of_block_value, of_parameters
            )
            if sums_rows:
                of_rows = jax.lax.dynamic_update_slice_in_dim(of_rows, of_block_rows, i * queries.size, 2)
            of_block_key += product("bhdt,bhts->bhds", queries.block(across_query, i, 3), of_scores)
            more = product("bhts,bhsd->bhtd", of_scores, block_key)
            if queries.number == 1:
                of_query += more
            else:
                first = i * queries.size
                more += jax.lax.dynamic_slice_in_dim(of_query, first, queries.size, 2)
                of_query = jax.lax.dynamic_update_slice_in_dim(of_query, more, first, 2)
            return of_query, of_block_key, of_block_value, of_rows, of_parameters

        nothing = jnp.zeros((*block_key.shape[:2], block_key.shape[3], keys.size), wide)
        carry = (of_query, nothing, nothing, of_rows, of_parameters)
        carry = jax.lax.fori_loop(*tiles.queries_of(j), of_pair, carry)
        of_query, of_block_key, of_block_value, of_rows, of_parameters = carry
        first = j * keys.size
        of_key = jax.lax.dynamic_update_slice_in_dim(of_key, of_block_key, first, 3)
        of_value = jax.lax.dynamic_update_slice_in_dim(of_value, of_block_value, first, 3)
        return of_query, of_key, of_value, of_rows, of_parameters

    nothing = jnp.zeros((*key.shape[:2], key.shape[3], key.shape[2]), wide)
    carry = (jnp.zeros(query.shape, wide), nothing, nothing, of_rows, jax.tree.map(jnp.zeros_like, parameters))
    of_query, of_key, of_value, of_rows, of_parameters = jax.lax.fori_loop(0, keys.number, of_keys, carry)
    of_query, of_rows = of_query[:, :, : queries.length], of_rows[:, :, : queries.length]
    of_empty = None if inputs.empty is None else -jnp.exp(inputs.empty - lse) * of_rows
    of_key, of_value = (jnp.swapaxes(x, 2, 3)[:, :, : keys.length] for x in (of_key, of_value))
    return Inputs(of_query, of_key, of_value, of_parameters, of_empty)
