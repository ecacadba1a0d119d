"""Fused attention against the naive way in float64, values and gradients; its memory, its dropout, and its choice."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.attention import VARIANTS, AttentionSpec, MultiHeadAttention, Rows, attention_variant
from qtx.attention.fused import BACKENDS, AttentionCase, chosen, taken_by
from qtx.attention.fused.blockwise import Blocks, FusedSpec, attend
from qtx.attention.normalizers import Softmax, SoftmaxLike
from qtx.attention.parameters import Parameter
from qtx.foundation.errors import QtxError
from qtx.masks import EVERYWHERE, Mask
from qtx.sites import on_sites
from tests.mechanisms import MECHANISMS

B, T, H, D = 2, 37, 3, 8


@dataclasses.dataclass(frozen=True)
class LearnedClip(SoftmaxLike):
    """A clipped softmax whose gamma each head learns, and whose zeta all share: both have gradients."""

    def parameters(self, num_heads):
        return {"gamma": Parameter((num_heads,), -0.05, axes=("heads",)), "zeta": Parameter((), 1.03)}

    def finish(self, parameters, probs, rows):
        gamma = parameters["gamma"][:, None, None]
        return jnp.clip((parameters["zeta"] - gamma) * probs + gamma, 0.0, 1.0)


NORMALIZERS = {
    name: a.normalizer for name, a in MECHANISMS.items() if isinstance(a.normalizer, SoftmaxLike) and a.gate is None
} | {
    "gamma and zeta": attention_variant("clipped_softmax,alpha=None,gamma=-0.03,zeta=1.05").normalizer,
    "saturated": attention_variant("clipped_softmax,alpha=None,gamma=0.0,zeta=3.0").normalizer,
    "dead": attention_variant("clipped_softmax,alpha=None,gamma=-2.0").normalizer,
    "warming": attention_variant("clipped_softmax,alpha=8,gamma_warmup_steps=10").trained_at(T).normalizer,
    "no empty key yet": attention_variant("softmax1,empty_warmup_steps=10").normalizer,
    "learned": LearnedClip(),
}
KEYS = jnp.arange(T)[None] < jnp.array([[T // 3], [T]])  # the first example's last blocks are padding
SEGMENTS = jnp.sort(jnp.asarray(np.random.default_rng(0).integers(0, 4, (B, T))))
MASKS = {
    "none": Mask(T),
    "causal": Mask(T, causal=True),
    "padding": Mask(T, padding=KEYS),
    "causal, padded in front": Mask(T, causal=True, padding=KEYS[:, ::-1]),  # rows that see nothing
    "segments": Mask(T, causal=True, segments=SEGMENTS),
    "window": Mask(T, window=6),
    "causal window": Mask(T, causal=True, window=11),
}
BLOCKS = {
    "one head, small": Blocks(8, 8, 1, 1, skips=True),
    "wide": Blocks(16, 8),
    "tall, one example": Blocks(8, 24, 1, 3),
    "all queries": Blocks(99, 8, 2, 1, skips=True),
    "all keys": Blocks(16, 99, 1, 1),
    "one block": Blocks(99, 99),
    "spans": Blocks(8, 99, 1, 1, spans=3),
    "spans of blocks": Blocks(8, 8, 2, 1, skips=True, spans=2),
}
# One case in nine of all, in which every two of the three meet.
CASES = list(itertools.product(NORMALIZERS, MASKS, BLOCKS))[::9]


def inputs(normalizer, scale=1.5, seed=0, heads=H):
    rng = np.random.default_rng(seed)
    query, key, value, gradient = (rng.normal(size=(B, T, heads, D)) for _ in range(4))
    parameters = {
        name: (p.start or 0.0) + (0.02 if "gamma" in name else 0.5) * rng.normal(size=p.shape)
        for name, p in normalizer.parameters(heads).items()
    }
    return parameters, scale * query, key, value, gradient


def dense(normalizer, rows, parameters, query, key, value):
    scores = jnp.einsum("bthd,bshd->bhts", query, key)
    return jnp.einsum("bhts,bshd->bthd", normalizer(parameters, scores, rows), value)


def values_and_gradients(function, parameters, query, key, value, gradient):
    out, backward = jax.vjp(function, parameters, query, key, value)
    return {"out": out, **dict(zip(("parameters", "query", "key", "value"), backward(gradient), strict=True))}


def as_floats(dtype, *trees):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), trees)


def assert_close(found, expected, tolerance=1e-5):
    """Of every array, relative to its largest value."""
    for path, wanted in jax.tree_util.tree_leaves_with_path(expected):
        there = jax.tree_util.tree_leaves_with_path(found)
        got = next(x for p, x in there if p == path)
        scale = max(float(np.abs(wanted).max()), 1e-2)
        error = float(np.abs(np.asarray(got, np.float64) - np.asarray(wanted)).max()) / scale
        assert error < tolerance, f"{jax.tree_util.keystr(path)}: {error:.2g}"


@pytest.mark.long
@pytest.mark.representative("softmax, padding, tall*", "no empty key yet, causal, *")
@pytest.mark.parametrize("name, mask, blocks", CASES, ids=[", ".join(case) for case in CASES])
def test_equals_the_naive_way_in_float64(name, mask, blocks):
    normalizer, rows = NORMALIZERS[name], Rows(MASKS[mask], jnp.int32(0 if name == "no empty key yet" else 5))
    given = inputs(normalizer)
    with jax.enable_x64(True):
        reference = lambda *args: dense(normalizer, rows, *args)  # noqa: E731
        expected = jax.tree.map(np.asarray, values_and_gradients(reference, *as_floats(jnp.float64, *given)))
    kernel = FusedSpec(normalizer, BLOCKS[blocks])
    fused = lambda parameters, *args: attend(kernel, parameters, *args, rows)  # noqa: E731
    with jax.default_matmul_precision("highest"):
        found = jax.jit(lambda *args: values_and_gradients(fused, *args))(*as_floats(jnp.float32, *given))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    assert_close(found, expected)


WINDOWS = {None: EVERYWHERE, 6: 6, 2: 2}
"""Windows as rules, and as data."""


@pytest.mark.parametrize(
    "name, mask, blocks",
    [
        ("softmax", "causal", "spans of blocks"),
        pytest.param("softmax", "padding", "one head, small", marks=pytest.mark.slow),
        pytest.param("learned", "segments", "wide", marks=pytest.mark.slow),
        pytest.param("clipped_softmax_visible", "causal, padded in front", "tall, one example", marks=pytest.mark.slow),
    ],
)
def test_a_window_that_is_data_equals_one_that_is_a_rule(name, mask, blocks):
    """One program serves both, as one scan serves layers with windows of their own."""
    normalizer, given = NORMALIZERS[name], inputs(NORMALIZERS[name])
    kernel = FusedSpec(normalizer, BLOCKS[blocks])

    def rows(window):
        return Rows(dataclasses.replace(MASKS[mask], window=window), jnp.int32(5))

    with jax.enable_x64(True):
        naive = [functools.partial(dense, normalizer, rows(window)) for window in WINDOWS]
        doubles = as_floats(jnp.float64, *given)
        expected = [jax.tree.map(np.asarray, values_and_gradients(function, *doubles)) for function in naive]

    def fused(window, *given):
        return values_and_gradients(lambda p, *args: attend(kernel, p, *args, rows(window)), *given)

    of_windows = jax.jit(lambda windows, *given: jax.lax.map(lambda window: fused(window, *given), windows))
    with jax.default_matmul_precision("highest"):
        found = of_windows(jnp.array(list(WINDOWS.values())), *as_floats(jnp.float32, *given))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    for index, wanted in enumerate(expected):
        assert_close(jax.tree.map(lambda x, i=index: x[i], found), wanted)


def test_the_table_has_what_it_is_about():
    """Rows that see nothing; probabilities that are 0 or 1 after the clip; blocks in which all are 0."""
    probs = {}
    for name in ("clipped_softmax", "saturated", "dead"):
        parameters, query, key, *_ = inputs(NORMALIZERS[name])
        scores = np.einsum("bthd,bshd->bhts", query, key)
        probs[name] = np.asarray(NORMALIZERS[name](parameters, scores, Rows(MASKS["none"])))
    assert (probs["saturated"] == 1).mean() > 0.02
    assert (probs["dead"] == 0).mean() > 0.9 and (probs["dead"].max(axis=-1) == 0).any()
    blocks = probs["dead"][..., :32, :32].reshape(B, H, 4, 8, 4, 8)
    assert (blocks.max(axis=(3, 5)) == 0).any()
    dense_mask = np.broadcast_to(MASKS["causal, padded in front"].dense(), (B, 1, T, T))
    assert (~dense_mask.any(axis=-1)).any()


def test_bfloat16_is_summed_in_float32():
    """Of 2,048 equal keys, whose sum of exponentials bfloat16 would stop at 256."""
    length = 2048
    ones = jnp.ones((1, length, 1, D), jnp.bfloat16)
    out = attend(FusedSpec(Softmax(), Blocks(512, 128)), {}, ones * 0, ones, ones, Rows(Mask(length)))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(out, np.float32), 1.0)


@pytest.mark.long
@pytest.mark.parametrize("blocks", ["one head, small", "spans"])
@pytest.mark.parametrize("name", ["softmax", "clipped_softmax", "learned"])
def test_dropout_is_the_same_in_both_passes(name, blocks):
    """The output is linear in the values and smooth in the rest: gradients are those of the function that was run."""
    normalizer, rows, key = NORMALIZERS[name], Rows(MASKS["causal"]), jax.random.key(3)
    *given, gradient = inputs(normalizer, scale=0.5)
    directions = inputs(normalizer, seed=1)[:4]
    with jax.enable_x64(True):
        *given, gradient = as_floats(jnp.float64, *given, gradient)
        directions = as_floats(jnp.float64, *directions)
        kernel = FusedSpec(normalizer, BLOCKS[blocks], dropout=0.3)

        def loss(*given):
            return (attend(kernel, *given, rows, key) * gradient).sum()

        slopes = jax.tree.map(
            lambda x, d: float((x * d).sum()), jax.grad(loss, argnums=(0, 1, 2, 3))(*given), directions
        )
        step = 1e-6
        for index in range(4):
            moved = [list(given), list(given)]
            for sign, other in zip((step, -step), moved, strict=True):
                other[index] = jax.tree.map(lambda x, d, s=sign: x + s * d, given[index], directions[index])
            measured = float(loss(*moved[0]) - loss(*moved[1])) / (2 * step)
            assert measured == pytest.approx(sum(jax.tree.leaves(slopes[index])), rel=1e-5, abs=1e-6)


def test_dropout_leaves_its_share_and_the_mean():
    length = 512
    zeros, ones = jnp.zeros((1, length, 2, D)), jnp.ones((1, length, 2, D))
    out = attend(
        FusedSpec(Softmax(), Blocks(512, 128), 0.25), {}, zeros, zeros, ones, Rows(Mask(length)), jax.random.key(0)
    )
    # A row's sum of 512 draws, each 0 or 4/3 of 1/512: the standard deviation is .0255.
    assert abs(float(out.mean()) - 1) < 4 * 0.0255 / np.sqrt(2 * length)
    assert 0.02 < float(out[..., 0].std()) < 0.031


@pytest.mark.slow
def test_draws_depend_on_no_blocks():
    """So that they are those of any number of devices."""
    normalizer = NORMALIZERS["clipped_softmax"]
    given = as_floats(jnp.float32, *inputs(normalizer)[:4])
    outs = [
        attend(FusedSpec(normalizer, Blocks(*size), 0.3), *given, Rows(Mask(T, causal=True)), jax.random.key(1))
        for size in ((16, 8, 1, 1), (16, 8, 2, 1), (16, 8), (8, 24), (16, 99, 1, 1), (99, 99), (8, 99, 1, 1, False, 3))
    ]
    for out in outs[1:]:
        np.testing.assert_allclose(out, outs[0], atol=1e-5)


@pytest.mark.slow
def test_a_block_on_the_edge_of_being_clipped_is_not_dead():
    """Two keys, p = 1/2 of each, gamma = -1: all is clipped to just 0, where the slope is 1."""
    normalizer, rows = attention_variant("clipped_softmax,alpha=2,length=2").normalizer, Rows(Mask(2))
    query, value = jnp.zeros((1, 2, 1, 4)), jnp.arange(8.0).reshape(1, 2, 1, 4)
    key = jnp.ones((1, 2, 1, 4))

    def gradient(attention):
        return jax.grad(lambda query: (attention(query) * value).sum())(query)

    expected = gradient(lambda query: dense(normalizer, rows, {}, query, key * value, value))
    kernel = FusedSpec(normalizer, Blocks(2, 1, 1, 1, skips=True))
    assert np.abs(expected).max() > 1
    found = gradient(lambda query: attend(kernel, {}, query, key * value, value, rows))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "sink", "clipped_softmax"])
def test_memory_is_linear_in_the_length(name):
    """Of forward and backward, as the compiler plans it; four times the length is at most four times the memory."""

    def bytes_needed(length, function):
        shapes = [jax.ShapeDtypeStruct((1, length, 2, 64), jnp.float32) for _ in range(4)]
        compiled = jax.jit(lambda *x: values_and_gradients(function(length), parameters, *x)).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    normalizer = NORMALIZERS[name]
    parameters = {key: jnp.zeros(p.shape) for key, p in normalizer.parameters(2).items()}

    def fused(length):
        of_length = case(normalizer, length, causal=True)
        return lambda *args: BACKENDS["blockwise"](of_length, *args, Rows(of_length.mask), None)

    naive = lambda length: lambda *args: dense(normalizer, Rows(Mask(length, causal=True)), *args)  # noqa: E731
    needed = {length: bytes_needed(length, fused) for length in (2048, 4096, 16384)}
    assert needed[4096] < 2.1 * needed[2048] and needed[16384] < 4.1 * needed[4096]
    assert needed[16384] < bytes_needed(4096, naive) / 3


def layer(backend, normalizer=None, gate="linear", deterministic=True, **options):
    config = attention_variant(f"softmax,gate={gate}")
    config = config if normalizer is None else dataclasses.replace(config, normalizer=normalizer)
    return MultiHeadAttention(AttentionSpec(H, config, init_std=0.5, backend=backend, **options), deterministic)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["none", "linear", "mlp", "headwise", "elementwise"])
def test_a_layer_is_the_same_by_any_backend(gate):
    x = jax.random.normal(jax.random.key(0), (B, T, H * D))
    rows, results = Rows(MASKS["segments"]), {}
    for backend in ("naive", *BACKENDS):
        module = layer(backend, NORMALIZERS["sink"], gate)
        params = module.init(jax.random.key(1), x)["params"]
        loss = lambda params, x, module=module: jnp.sum(jnp.sin(module.apply({"params": params}, x, rows)))  # noqa: E731
        results[backend] = jax.grad(loss, argnums=(0, 1))(params, x)
    for backend in BACKENDS:
        assert jax.tree.structure(results[backend]) == jax.tree.structure(results["naive"])
        assert_close(jax.tree.map(np.asarray, results[backend]), jax.tree.map(np.asarray, results["naive"]), 1e-4)


@pytest.mark.slow
def test_what_looks_at_scores_or_probabilities_sees_them():
    module = layer("blockwise")
    x = jax.random.normal(jax.random.key(0), (B, T, H * D))
    variables = module.init(jax.random.key(1), x)
    assert taken_by(module.apply, variables, x) == "blockwise"
    _, captured = module.apply(variables, x, capture_intermediates=True)
    assert captured["intermediates"]["probs"]["__call__"][0].shape == (B, H, T, T)
    seen = []
    for paths, taken in (({"probs"}, "naive"), ({"scores"}, "naive"), ({"context"}, "blockwise"), (None, "naive")):
        with on_sites(lambda module, path, y, mask: seen.append(path) or y, paths):
            assert taken_by(module.apply, variables, x) == taken, paths
        assert paths is None or set(seen) == paths
        seen.clear()


def case(normalizer=VARIANTS["softmax"].normalizer, length=512, platform="cpu", causal=False):
    return AttentionCase(normalizer, Mask(length, causal), (1, length, 2, 64), jnp.dtype("float32"), 0.0, platform, 1)


def test_what_auto_takes():
    blockwise = BACKENDS["blockwise"]
    assert chosen("auto", case(), watched=False) is blockwise
    assert chosen("auto", case(length=256), watched=False) is None
    assert chosen("auto", case(length=512, causal=True), watched=False) is blockwise
    assert chosen("auto", case(platform="gpu", length=4096), watched=False) is None
    assert chosen("auto", case(VARIANTS["none"].normalizer), watched=False) is None
    assert chosen("auto", case(), watched=True) is None
    assert chosen("naive", case(), watched=False) is None
    assert chosen("blockwise", case(platform="gpu", length=8), watched=False) is blockwise


def test_what_a_backend_cannot_compute_is_refused_by_name():
    @dataclasses.dataclass(frozen=True)
    class Own(SoftmaxLike):
        def __call__(self, parameters, scores, rows):
            return super().__call__(parameters, 2 * scores, rows)

    for normalizer in (VARIANTS["none"].normalizer, Own()):
        with pytest.raises(QtxError, match=f"'blockwise' does not compute {type(normalizer).__name__}.*'auto'"):
            chosen("blockwise", case(normalizer), watched=False)
    for options in ({"keys": 1024}, {"offset": 0}):
        elsewhere = case()._replace(mask=Mask(512, **options))
        assert chosen("auto", elsewhere, watched=False) is None
        with pytest.raises(QtxError, match="'blockwise' does not compute keys at other positions.*'naive'"):
            chosen("blockwise", elsewhere, watched=False)
        assert chosen("auto", case(normalizer), watched=False) is None
