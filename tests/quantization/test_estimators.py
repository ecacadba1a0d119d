"""Every range estimator against a NumPy reading of its definition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtx.foundation.errors import QtxError
from qtx.foundation.variants import make_variant
from qtx.quantization import ESTIMATORS, Quantizer
from qtx.quantization.estimators import Lp, Mse, RunningMinMax, lp
from qtx.quantization.estimators.percentile import percentile_ends
from qtx.quantization.plan import make_plan


def batches(seed, count=3, shift=0.0):
    rng = np.random.default_rng(seed)
    return [(rng.standard_t(3, size=(5, 40)) + shift).astype(np.float32) for _ in range(count)]


def estimate(estimator, data, bits=8, symmetric=True):
    state = estimator.init()
    for x in data:
        state = estimator.update(state, jnp.asarray(x), bits, symmetric)
    return tuple(float(end) for end in estimator.result(state))


def minmax(data, bits):
    return data[-1].min(), data[-1].max()


def running_minmax(data, bits):
    low, high = data[0].min(), data[0].max()
    for x in data[1:]:
        low, high = 0.1 * x.min() + 0.9 * low, 0.1 * x.max() + 0.9 * high
    return low, high


def running_percentile(data, bits):
    low, high = np.percentile(data[0].astype(np.float64), [1, 99])
    for x in data[1:]:
        ends = np.percentile(x.astype(np.float64), [1, 99])
        low, high = 0.1 * ends[0] + 0.9 * low, 0.1 * ends[1] + 0.9 * high
    return low, high


def mse(data, bits):
    step = (np.abs(data[0]).max() + 0.5) / 100
    signed = data[0].min() < 0
    largest = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    smallest = -largest - 1 if signed else 0

    def error(i):
        scale = i * step / largest
        return sum(
            ((x - scale * np.clip(np.round(x / scale), smallest, largest)) ** 2).sum(dtype=np.float64) for x in data
        )

    best = (np.argmin([error(i) for i in range(1, 101)]) + 1) * step
    return -best * signed, best


def error_of(data, end, bits, p):
    """Sum of |x - Q(x)|^p on the symmetric grid of [-end, end]."""
    largest = 2 ** (bits - 1) - 1
    scale = end / largest
    return sum(
        (np.abs(x - scale * np.clip(np.round(x / scale), -largest - 1, largest)) ** p).sum(dtype=np.float64)
        for x in data
    )


ORACLES = {
    "minmax": [({}, minmax)],
    "running_minmax": [({}, running_minmax), ({"percentile": 99.0}, running_percentile)],
    "mse": [({}, mse)],
    "lp": [({"p": 2.0}, mse)],
}
SEARCHED = {"mse,search=golden": 2.0, "lp": 2.4}  # judged by the error that they reach


def test_every_estimator_has_an_oracle():
    assert ORACLES.keys() == ESTIMATORS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SEARCHED))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bits=st.sampled_from([3, 4, 6]))
def test_a_search_finds_nearly_the_least_error(name, seed, bits):
    data, p = batches(seed, count=1), SEARCHED[name]
    best = min(error_of(data, end, bits, p) for end in np.linspace(0.02, 1, 400) * (np.abs(data[0]).max() + 0.5))
    found = estimate(make_variant(ESTIMATORS, "estimator", name), data, bits)
    assert found[0] == -found[1]
    assert error_of(data, found[1], bits, p) <= 1.1 * best


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mse", "mse,search=golden", "lp"])
def test_an_asymmetric_search_keeps_the_shape_of_the_range_and_clips_its_outlier(name):
    x = np.concatenate([np.random.default_rng(0).uniform(-1, 3, size=4000), [60.0]]).astype(np.float32)
    estimator = make_variant(ESTIMATORS, "estimator", name)
    low, high = estimate(estimator, [x], bits=4, symmetric=False)
    assert high / -low == pytest.approx((60 + 0.5) / (-x.min() + 0.5), rel=1e-3)
    assert 3 < high < 60
    low, high = estimate(estimator, [np.abs(x)], bits=4, symmetric=False)
    assert low == 0 and high < 60


MASKED = [("minmax", {}), ("running_minmax", {}), ("running_minmax", {"percentile": 97.0}), ("mse", {}), ("lp", {})]


def test_every_estimator_has_a_row():
    assert {name for name, _ in MASKED} == ESTIMATORS.keys()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_state_is_finite_before_the_first_tensor(name):
    make_plan({"site": Quantizer(8, False, ESTIMATORS[name]())})

    @dataclasses.dataclass(frozen=True)
    class Running(ESTIMATORS[name]):
        def init(self):
            return super().init() | {"lowest": jnp.inf}

    with pytest.raises(QtxError, match="Running.* has inf for 'lowest': expected finite numbers"):
        make_plan({"site": Quantizer(8, False, Running())})


@pytest.mark.representative("minmax-*", "mse-*", "lp-*", "running_minmax-{}*")
@pytest.mark.parametrize("name, options", MASKED, ids=str)
def test_masked_values_do_not_count(name, options):
    """A mask gives what the visible values alone give."""
    x, where = batches(3, count=1)[0], np.random.default_rng(4).random((5, 40)) < 0.7
    estimator = ESTIMATORS[name](**options)
    masked = estimator.update(estimator.init(), jnp.where(where, x, 1e6 * x), 4, False, jnp.asarray(where))
    expected = estimate(estimator, [x[where]], 4, symmetric=False)
    np.testing.assert_allclose([float(end) for end in estimator.result(masked)], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"percentile": 97.0}], ids=str)
def test_the_range_of_padding_alone_is_0(options):
    estimator = RunningMinMax(**options)
    state = estimator.update(estimator.init(), jnp.ones((5, 40)), 8, False, jnp.zeros((5, 1), bool))
    assert estimator.result(state) == (0, 0)


MANY_VALUES = {
    "normal": lambda rng: rng.normal(size=(20, 1024)),
    "heavy tails": lambda rng: rng.standard_t(3, size=(20, 1024)),
    "relu": lambda rng: np.maximum(rng.normal(size=(20, 1024)), 0),
    "an outlier": lambda rng: rng.normal(size=(20, 1024)) * np.where(np.arange(1024) == 5, 60, 1),
    "few values": lambda rng: rng.choice([0, 0.1, 0.25, 1.0], size=(20, 1024)),
    "all equal": lambda rng: np.full((20, 1024), 5.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("bits, symmetric", [(4, True), (8, False)])
@pytest.mark.parametrize("kind", MANY_VALUES)
def test_a_histogram_leads_to_the_range_of_least_exact_error(kind, bits, symmetric):
    """Over three tensors of more values than a search goes through a hundred times."""
    rng, estimator = np.random.default_rng(1), Mse()
    tensors = [MANY_VALUES[kind](rng).astype(np.float32) for _ in range(3)]
    assert tensors[0].size > lp.MANY
    state = estimator.init()
    for x in tensors:
        state = jax.jit(estimator.update, static_argnums=(2, 3))(state, jnp.asarray(x), bits, symmetric)
    ends = [np.asarray(end, np.float64) for end in estimator._grid(state["low"], state["high"])]
    errors = []
    for low, high in zip(*ends, strict=True):
        levels = 2**bits
        if symmetric:
            scale = max(-low, high) / (levels / 2 - 1 if low < 0 else levels - 1)
            first, last = (-levels / 2, levels / 2 - 1) if low < 0 else (0, levels - 1)
        else:
            scale = (high - low) / (levels - 1)
            first = -np.clip(np.round(-low / scale), 0, levels - 1)
            last = first + levels - 1
        errors.append(
            sum(
                ((x - scale * np.clip(np.round(x.astype(np.float64) / scale), first, last)) ** 2).sum() for x in tensors
            )
        )
    chosen = int(np.argmin(state["found"]))
    assert errors[chosen] <= min(errors) * (1 + 1e-5) + 1e-9
    if kind != "all equal":
        assert chosen == np.argmin(errors)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 2, 37]), percentile=st.floats(50.5, 100))
def test_percentiles_are_numpys(seed, size, percentile):
    x = np.random.default_rng(seed).standard_cauchy(size).astype(np.float32).round(1)
    expected = np.percentile(x.astype(np.float64), [100 - percentile, percentile])
    np.testing.assert_allclose(percentile_ends(jnp.asarray(x), percentile), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.representative("minmax-*", "mse-*")
@pytest.mark.parametrize(
    "name, options, oracle", [pytest.param(n, o, f, id=f"{n}-{o}") for n, cases in ORACLES.items() for o, f in cases]
)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), bits=st.sampled_from([4, 8]), shift=st.sampled_from([0.0, 100.0]))
def test_estimators_do_as_they_say(name, options, oracle, seed, bits, shift):
    data = batches(seed, shift=shift)
    np.testing.assert_allclose(
        estimate(ESTIMATORS[name](**options), data, bits), oracle(data, bits), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_percentile_100_is_the_extreme():
    data = batches(0)
    assert estimate(RunningMinMax(percentile=100.0), data) == pytest.approx(estimate(RunningMinMax(), data))


def test_mse_clips_an_outlier_that_minmax_keeps():
    x = np.concatenate([np.random.default_rng(0).normal(size=2000), [50.0]]).astype(np.float32)
    assert estimate(Mse(), [x], bits=4)[1] < 40


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: RunningMinMax(momentum=1.0), "momentum is 1.0"),
        (lambda: RunningMinMax(percentile=50.0), "percentile is 50.0"),
        (lambda: Mse(candidates=0), "candidates is 0: expected at least 1"),
        (lambda: Lp(p=0.0), "p is 0.0"),
        (lambda: Lp(search="random"), "unknown search 'random': expected one of golden, grid"),
    ],
)
def test_bad_options_are_refused(make, says):
    with pytest.raises(QtxError, match=says):
        make()
