"""Every granularity against a NumPy reading of its definition."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.foundation.errors import QtxError
from qtx.quantization import ESTIMATORS
from qtx.quantization.estimators import Mse, RunningMinMax
from qtx.quantization.granularity import GRANULARITIES, Channel, Group, InputGroup, Tensor, Token, TokenGroup
from qtx.quantization.plan import Planned, ends_shape
from qtx.quantization.qat.interceptor import round_to_learned_range
from qtx.quantization.rounding import round_to_range

X = np.random.default_rng(0).standard_t(3, size=(2, 6, 8)).astype(np.float32) * np.arange(1, 9, dtype=np.float32)


KERNEL = X.reshape(12, 8)


def ends(granularity, estimator=None, data=(X,), where=None):
    estimator = RunningMinMax() if estimator is None else estimator
    shape = KERNEL.shape if isinstance(granularity, InputGroup) else data[0].shape
    state = granularity.init(estimator, shape)
    for x in data:
        where = where if where is None else where.reshape(shape)
        state = granularity.update(estimator, state, jnp.asarray(x).reshape(shape), 8, False, where)
    return tuple(np.asarray(end) for end in granularity.result(estimator, state))


def by_group():
    low, high = X.min(axis=(0, 1)), X.max(axis=(0, 1))
    expected = np.empty(8), np.empty(8)
    for group in np.split(np.argsort(high - low), 4):
        expected[0][group], expected[1][group] = low[group].min(), high[group].max()
    return expected


def by_input_group():
    expected = np.empty((3, 8)), np.empty((3, 8))
    for group, column in np.ndindex(3, 8):
        values = [KERNEL[row, column] for row in range(4 * group, 4 * group + 4)]
        expected[0][group, column], expected[1][group, column] = min(values), max(values)
    return expected


def by_token_group():
    expected = np.empty((2, 6, 2)), np.empty((2, 6, 2))
    for batch, token, group in np.ndindex(2, 6, 2):
        values = [0.0, *(X[batch, token, 4 * group + i] for i in range(4))]
        expected[0][batch, token, group], expected[1][batch, token, group] = min(values), max(values)
    return expected


OPTIONS = {"input_group": {"size": 4}, "token_group": {"size": 4}}
EXPECTED = {
    "input_group": by_input_group,
    "tensor": lambda: (X.min(), X.max()),
    "channel": lambda: (X.min(axis=(0, 1)), X.max(axis=(0, 1))),
    "group": by_group,
    "call": lambda: tuple(end.reshape(1, 1, 1) for end in (np.minimum(X.min(), 0), np.maximum(X.max(), 0))),
    "token_group": by_token_group,
    "token": lambda: (np.minimum(X.min(-1, keepdims=True), 0), np.maximum(X.max(-1, keepdims=True), 0)),
}


def test_every_granularity_is_tested():
    assert EXPECTED.keys() == GRANULARITIES.keys()


@pytest.mark.representative("input_group")
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_ranges_are_as_defined(name):
    granularity = GRANULARITIES[name](**OPTIONS.get(name, {}))
    found = granularity.ends(jnp.asarray(X)) if isinstance(granularity, Token) else ends(granularity)
    for end, expected in zip(found, EXPECTED[name](), strict=True):
        np.testing.assert_array_equal(end, expected.astype(np.float32))


@pytest.mark.slow
def test_finer_ranges_lose_less():
    def error(granularity):
        planned = Planned("x", False, RunningMinMax(), granularity, False)
        r = {"bits": jnp.float32(4)}
        if not isinstance(granularity, Token):
            r |= dict(zip(("minimum", "maximum"), ends(granularity), strict=True))
        return np.square(X - round_to_range(jnp.asarray(X), r, planned)).sum()

    assert error(Channel()) < error(Group(4)) < error(Group(2)) < error(Tensor())
    assert error(TokenGroup(2)) < error(TokenGroup(4)) < error(Token()) < error(Tensor())
    assert error(Group(1)) == pytest.approx(error(Tensor()))


@pytest.mark.slow
def test_channels_keep_their_own_running_state():
    """The estimator of a channel sees that channel alone, whatever the estimator."""
    other = X[::-1] * 0.5
    for estimator in (RunningMinMax(percentile=90.0), Mse(search="golden")):
        low, high = ends(Channel(), estimator, (X, other))
        for channel in (0, 7):
            data = (X[..., channel, None], other[..., channel, None])
            expected = ends(Tensor(), estimator, data)
            np.testing.assert_allclose((low[channel], high[channel]), expected, rtol=1e-5)


@pytest.mark.slow
def test_masked_values_do_not_count_in_channels_and_rows():
    where = np.ones_like(X, bool)
    where[0, 0] = False
    low, high = ends(Channel(), where=jnp.asarray(where))
    np.testing.assert_array_equal(high, np.where(where, X, -np.inf).max(axis=(0, 1)))
    low, high = Token().ends(jnp.asarray(X), jnp.asarray(where))
    assert low[0, 0] == high[0, 0] == 0
    np.testing.assert_array_equal(high[1], np.maximum(X[1].max(-1, keepdims=True), 0))
    low, high = TokenGroup(4).ends(jnp.asarray(X), jnp.asarray(where))
    assert (low[0, 0] == 0).all() and (high[0, 0] == 0).all()
    np.testing.assert_array_equal(high[1, :, 1], np.maximum(X[1, :, 4:].max(-1), 0))


def test_bits_zero_leave_a_tensor_in_floating_point():
    planned = Planned("x", True, RunningMinMax(), Tensor(), False)
    r = {"bits": jnp.float32(0), "minimum": jnp.float32(-1), "maximum": jnp.float32(1)}
    np.testing.assert_array_equal(round_to_range(jnp.asarray(X), r, planned), X)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Group(0), "num_groups is 0"),
        (lambda: ends(Group(3)), "num_groups 3 does not divide a last axis of 8"),
        (lambda: Channel().update(RunningMinMax(), None, jnp.ones(8), 8, True), "vector of 8 values"),
        (lambda: InputGroup(0), "size is 0"),
        (lambda: TokenGroup(3).ends(jnp.ones((2, 8))), "groups of 3 do not divide a last axis of 8"),
        (
            lambda: InputGroup(128).ranges((300, 8)),
            "groups of 128 do not divide 300 inputs: choose a divisor, such as input_group,size=100",
        ),
        (lambda: InputGroup(4).ranges((8,)), r"on a tensor of shape \(8,\): only a kernel \[D, F\] has inputs"),
        (
            lambda: ends_shape(Planned("words/embedding", True, RunningMinMax(), InputGroup(4), False), (8, 8)),
            "choose another for the embedding table 'words/embedding'",
        ),
    ],
)
def test_bad_options_are_refused(make, says):
    with pytest.raises(QtxError, match=says):
        make()


STATIC = {
    name: functools.partial(make, **OPTIONS.get(name, {}))
    for name, make in GRANULARITIES.items()
    if not issubclass(make, Token)
}
CLIPPING = {
    **ESTIMATORS,
    "percentile": lambda: RunningMinMax(percentile=90.0),
    "mse_golden": lambda: Mse(search="golden"),
}


NOT_FINITE = [
    (*case, (np.nan, np.inf, -np.inf)[number % 3])
    for number, case in enumerate(itertools.product(sorted(STATIC), sorted(CLIPPING)))
]


@pytest.mark.long
@pytest.mark.parametrize(("granularity", "estimator", "value"), NOT_FINITE)
def test_what_is_not_finite_makes_a_range_that_is_not(granularity, estimator, value):
    """In whichever batch it is: one value among many, which a percentile would cut off and a search pass over."""
    made, good = STATIC[granularity](), X.copy()
    bad = X.copy()
    bad[1, 2, 3] = value
    for data in ((bad,), (good, bad), (bad, good, good)):
        assert not np.isfinite(ends(made, CLIPPING[estimator](), data)).all()
    masked = np.ones_like(bad, bool)
    masked[1, 2, 3] = False
    assert np.isfinite(ends(made, CLIPPING[estimator](), (bad,), masked)).all()


@pytest.mark.slow
def test_a_kernel_in_groups_of_inputs_is_rounded_group_by_group():
    low, high = ends(InputGroup(4), data=(KERNEL,))
    r = {"bits": jnp.float32(4), "minimum": low, "maximum": high}
    planned = Planned("out/kernel", True, RunningMinMax(), InputGroup(4), False)
    expected = np.empty_like(KERNEL)
    for row, column in np.ndindex(KERNEL.shape):
        group = KERNEL[row // 4 * 4 : row // 4 * 4 + 4, column]
        unsigned = group.min() >= 0
        step = np.abs(group).max() / (15 if unsigned else 7)
        q = np.clip(np.round(KERNEL[row, column] / step), *((0, 15) if unsigned else (-8, 7)))
        expected[row, column] = q * step
    found = round_to_range(jnp.asarray(KERNEL), r, planned, weight=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_group_learns_its_step_as_a_kernel_of_its_own_does():
    planned = Planned("out/kernel", True, RunningMinMax(), InputGroup(4), False)
    learned = {"step": jnp.linspace(0.5, 2, 24).reshape(3, 8), "low": jnp.full((3, 8), -8.0)}
    factors = jnp.asarray(np.random.default_rng(1).normal(size=KERNEL.shape), jnp.float32)

    @functools.partial(jax.jit, static_argnums=3)
    def gradients(x, learned, factors, granularity):
        def loss(x, learned):
            r = {"bits": jnp.float32(4), **learned}
            return jnp.sum(factors * round_to_learned_range(x, r, planned._replace(granularity=granularity)))

        return jax.grad(loss, (0, 1))(x, learned)

    dx, dr = gradients(KERNEL, learned, factors, InputGroup(4))
    rows, own = slice(4, 8), {name: x[1] for name, x in learned.items()}
    alone, of_own = gradients(KERNEL[rows], own, factors[rows], Channel())
    np.testing.assert_allclose(dx[rows], alone, rtol=1e-6)
    np.testing.assert_allclose(dr["step"][1], of_own["step"], rtol=1e-4, atol=1e-6)
