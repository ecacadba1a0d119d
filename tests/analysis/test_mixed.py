"""Mixed precision: the search against all subsets, and prices against products counted by hand."""

from __future__ import annotations

import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.analysis.mixed import cheapest
from qtx.analysis.prices import prices
from qtx.analysis.sensitivity import costliest, with_some
from qtx.anatomy import read
from qtx.families import build
from qtx.models import BertConfig
from qtx.quantization import QuantizationConfig, calibrate

TENSORS = [("weight", f"w{i}", None) for i in range(8)]
some = st.lists(st.integers(1, 50), min_size=len(TENSORS), max_size=len(TENSORS))


def subsets():
    return itertools.chain.from_iterable(itertools.combinations(TENSORS, n) for n in range(len(TENSORS) + 1))


def searched(damages, costs, budget):
    """Returns what is found where each tensor does its own damage, and the cheapest of all subsets."""
    damage, cost = dict(zip(TENSORS, damages, strict=True)), dict(zip(TENSORS, costs, strict=True))

    def holds(left):
        return sum(damage[one] for one in TENSORS if one not in left) <= budget

    def price(left):
        return sum(cost[one] for one in left)

    order = sorted(TENSORS, key=lambda one: -damage[one] / cost[one])
    found = cheapest(order, holds, price)
    return found, holds, price, min(map(price, filter(holds, subsets())))


@settings(deadline=None)
@given(some, some, st.integers(0, 400))
def test_what_is_found_is_enough_and_no_tensor_of_it_can_be_spared(damages, costs, budget):
    found, holds, price, best = searched(damages, costs, budget)
    assert holds(found) and not any(holds([other for other in found if other != one]) for one in found)
    assert price(found) >= best and (best > 0 or found == [])


def test_on_most_problems_it_is_the_cheapest_of_all_subsets():
    rng, over = np.random.default_rng(0), []
    for _ in range(100):
        damages, costs = rng.lognormal(0, 1.5, (2, len(TENSORS)))
        found, _, price, best = searched(damages, costs, 0.2 * damages.sum())
        over.append(price(found) / best)
    assert np.mean(over) < 1.1 and np.mean(np.isclose(over, 1)) > 0.5


def test_few_measurements_are_made_and_nothing_is_found_where_nothing_is_enough():
    asked = []

    def holds(left):
        asked.append(tuple(left))
        return set(TENSORS[:3]) <= set(left)

    assert cheapest(TENSORS, holds, len) == TENSORS[:3]
    assert len(asked) <= 9 < 2 ** len(TENSORS)
    assert cheapest(TENSORS, lambda left: False, len) is None
    assert cheapest(TENSORS, lambda left: True, len) == []


@pytest.mark.slow
def test_prices_are_the_products_and_bytes_counted_by_hand():
    config = BertConfig(num_layers=2, width=16, num_heads=2, mlp_width=32, vocab_size=23, max_length=8, head="none")
    module, batch = build(config), config.example()
    params = nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"])
    tokens = batch["tokens"].shape[1]

    def priced(recipe, **options):
        recipe = QuantizationConfig(recipe=recipe, **options).make_recipe("w8a8", config)
        return prices(read(module, batch), calibrate(module, params, recipe, [batch], 1), config.width)

    dense = 2 * (4 * 16 * 16 + 2 * 16 * 32)
    attention = 2 * (2 * tokens * 16)
    everything, linear = priced("strict"), priced("matmul")
    assert sum(count for count, _ in everything.products) == dense + attention
    assert sum(count for count, _ in linear.products) == dense
    for kind, path, layer, products in (
        ("activation", "layers/mlp/hidden", 1, 32 * 16),
        ("weight", "layers/mlp/out/kernel", 0, 32 * 16),
        ("activation", "embeddings/norm", None, 3 * 16 * 16),  # the first layer's queries, keys and values
        ("activation", "layers/mlp_norm", 0, 3 * 16 * 16),
        ("activation", "layers/mlp_norm", 1, 0),  # the last layer's: no product reads it
        ("weight", "embeddings/words/embedding", None, 0),
    ):
        assert linear.of([(kind, path, layer)]).products == pytest.approx(products / dense), path
    both = [("weight", "layers/mlp/out/kernel", 0), ("activation", "layers/mlp/hidden", 0)]
    assert linear.of(both).products == pytest.approx(32 * 16 / dense)  # one product
    assert everything.of([("activation", "layers/attention/probs", 0)]).products == pytest.approx(
        tokens * 16 / (dense + attention)
    )
    table = [("weight", "embeddings/words/embedding", None)]
    assert (linear.of(table).bytes, linear.of(table, bits=16).bytes) == (3 * 23 * 16, 23 * 16)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_a_small_model_what_is_found_is_at_most_twice_as_dear_as_the_cheapest_of_all_subsets(seed):
    config = BertConfig(num_layers=1, width=16, num_heads=2, mlp_width=32, vocab_size=23, max_length=8, init_std=0.3)
    module, rng = build(config), np.random.default_rng(seed)
    batch = {"tokens": rng.integers(0, 23, (8, 8)), "positions": rng.integers(0, 8, (8, 2))}
    params = nn.unbox(jax.jit(module.init)(jax.random.key(seed), batch)["params"])
    recipe = QuantizationConfig(recipe="matmul", weight_estimator="minmax").make_recipe("w4a4", config)
    quantized, apply = calibrate(module, params, recipe, [batch], 1), jax.jit(lambda model: model.apply(batch))
    exact, known = np.asarray(jax.jit(module.apply)({"params": params}, batch)), {}
    priced = prices(read(module, batch), quantized, config.width)

    def error(model):
        return float(np.linalg.norm(np.asarray(apply(model)) - exact))

    def left(some):
        if frozenset(some) not in known:
            known[frozenset(some)] = error(with_some(quantized, params, some, alone=False))
        return known[frozenset(some)]

    def price(some):
        return priced.of(some).share + len(some) / 100

    order = list(itertools.islice(costliest(quantized, params, error, True, price), 8))
    wanted = (left([]) + left(order)) / 2
    found = cheapest(order, lambda some: left(some) <= wanted, price)
    asked = len(known)
    subsets = itertools.chain.from_iterable(itertools.combinations(order, n) for n in range(len(order) + 1))
    best = min(price(some) for some in subsets if left(some) <= wanted)
    assert left(found) <= wanted and best <= price(found) <= 2.1 * best
    assert asked < 25 < len(known) == 2 ** len(order)
