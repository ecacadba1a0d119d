"""Integer execution against fake quantization: same answers, from int8 products alone."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.anatomy import read
from qtx.families import FAMILIES, build
from qtx.foundation.errors import QtxError
from qtx.layers import dense, dense_product
from qtx.models import BertConfig
from qtx.quantization import QuantizationConfig, Recipe, Rule, calibrate
from qtx.quantization.integer import convert, products
from qtx.sites import Site, site_shapes
from tests.mechanisms import MECHANISMS

SMALL = {"num_layers": 1, "width": 16, "num_heads": 2, "mlp_width": 32, "init_std": 0.3}
OF_FAMILY = {
    "bert": {"vocab_size": 23, "max_length": 8},
    "opt": {"vocab_size": 23, "max_length": 8},
    "modern_bert": {"vocab_size": 23, "max_length": 8, "local_distance": 2},
    "rotary_bert": {"vocab_size": 23, "max_length": 8, "relative_buckets": 8},
    "llama": {"vocab_size": 23, "max_length": 8, "num_kv_heads": 1},
    "vit": {"image_size": 8, "channels": 3, "num_classes": 5, "patch_size": 4},
}


@functools.cache
def make(family, attention="softmax", **options):
    rng = np.random.default_rng(0)
    batch = {"tokens": rng.integers(0, 23, (4, 8)), "mask": np.arange(8) < np.array([[8], [5], [8], [2]])}
    if family == "vit":
        batch = {"images": rng.normal(size=(4, 8, 8, 3)).astype(np.float32)}
    config = FAMILIES[family].config(**{**SMALL, **OF_FAMILY[family], **options}, attention=MECHANISMS[attention])
    module = build(config)
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"]), batch


@functools.cache
def quantized(family, attention="softmax", scheme="w8a8", num_layers=1, dtype="float32", **options):
    module, params, batch = make(family, attention, num_layers=num_layers, dtype=dtype)
    config = QuantizationConfig(**{"recipe": FAMILIES[family].recipe, **options})
    return calibrate(module, params, config.make_recipe(scheme, module.config), [batch], 1), batch


def everything(family, attention="softmax", bits=8, **layers):
    """A model whose every tensor is quantized, mlp/in, gate and head included."""
    module, params, batch = make(family, attention, **layers)
    weight, activation = QuantizationConfig().quantizers(f"w{bits}a{bits}")
    recipe = Recipe((Rule("*", weight),), (Rule("*", activation),))
    return calibrate(module, params, recipe, [batch], 1), batch


apply = jax.jit(lambda model, batch: model.apply(batch))


def off_the_edges(result):
    """With activation ranges a little off those of the calibration. Calibrated at few bits, a grid's step is a ratio of
    small integers of the steps before it, and values lie on the edge between two integers exactly."""
    rng = np.random.default_rng(1)
    ranges = {
        path: {
            **r,
            "minimum": r["minimum"] * rng.uniform(1.01, 1.05),
            "maximum": r["maximum"] * rng.uniform(1.01, 1.05),
        }
        for path, r in sorted(result.activation_ranges.items())
    }
    return dataclasses.replace(result, activation_ranges=ranges)


def assert_same_answers(model, result, batch):
    """Most rows of the logits are the same; in the others a value lay on the edge between two integers, which float32
    rounds either way, and the next layers carry the difference on. An error would show in all rows."""
    found, expected = np.asarray(apply(model, batch)), np.asarray(apply(result, batch))
    same = np.abs(found - expected).max(axis=-1) < 1e-5 * np.abs(expected).max()
    distance = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert same.mean() >= 0.75 and distance < 0.02, (same.mean(), distance)


PRODUCTS = sorted(
    {"layers/attention/" + name for name in ("query", "key", "value", "score_product", "context_product", "out")}
    | {"layers/mlp/in", "layers/mlp/out"}
)
CLIPPED = ("clipped_softmax", {"scheme": "w8a4", "weight_granularity": "channel"})
# By paper_opt, the gated context stays in floating point, and so does what multiplies it.
GATED = (
    "gated_linear",
    {"scheme": "w4a8", "num_layers": 3, "weight_estimator": "minmax", "recipe": "paper_opt"},
)
CASES = [
    ("bert", "softmax", {}),
    ("opt", "gated_mlp", {"recipe": "strict"}),
    ("bert", *GATED),
    ("vit", *CLIPPED),
] + [
    (family, attention, {"scheme": scheme, "num_layers": 2, "recipe": recipe, "weight_granularity": granularity})
    for number, family in enumerate(sorted(FAMILIES))
    for turn, attention in enumerate(sorted(MECHANISMS))
    for scheme, recipe, granularity in (("w8a8", FAMILIES[family].recipe, "tensor"), ("w4a4", "strict", "channel"))
    # The block is the same in all families: every mechanism in one, and in the others two that are of another kind than
    # those above; of neighbours one in 8 bits and one in 4.
    if (family == "opt" or attention in ("sink", "gated_elementwise"))
    and (scheme == "w8a8") == ((number + turn) % 2 == 0)
]


@pytest.mark.long
@pytest.mark.representative("*-options1")
@pytest.mark.parametrize("family, attention, options", CASES)
def test_integers_compute_what_fake_quantization_simulates(family, attention, options):
    result, batch = quantized(family, attention, **options)
    result = off_the_edges(result)
    assert_same_answers(convert(result), result, batch)


@pytest.mark.slow
def test_sums_by_channel():
    """Ranges by dimension are possible where no product multiplies: at the residual sums."""
    module, params, batch = make("bert")
    weight, activation = QuantizationConfig().quantizers("w8a8")
    grouped = QuantizationConfig(activation_granularity="group").quantizers("w8a8")[1]
    head = Rule("head/*", None)
    sites = (head, Rule("*_residual", grouped), Rule("layers/mlp/in", None), Rule("*", activation))
    result = calibrate(module, params, Recipe((head, Rule("*bias", None), Rule("*", weight)), sites), [batch], 1)
    assert result.activation_ranges["layers/mlp_residual"]["minimum"].shape == (1, 16)
    assert_same_answers(convert(result), result, batch)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "opt"])
def test_smoothed_tensors_are_integers_too(family):
    from qtx.quantization.methods import SmoothQuant

    module, params, batch = make(family, num_layers=2)
    recipe = QuantizationConfig(recipe=FAMILIES[family].recipe).make_recipe("w8a8", module.config)
    result = calibrate(module, params, recipe, [batch], 1, SmoothQuant())
    model = convert(result)
    assert not set(PRODUCTS) & set(model.in_floating_point)
    assert_same_answers(model, result, batch)


def dots(jaxpr, inside=False):
    """Operand and result types of the products under the scan."""
    for equation in jaxpr.eqns:
        within = inside or equation.primitive.name == "scan"
        if within and equation.primitive.name == "dot_general":
            yield tuple(str(v.aval.dtype) for v in (*equation.invars, *equation.outvars))
        for value in equation.params.values():
            if isinstance(value, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr)):
                yield from dots(getattr(value, "jaxpr", value), within)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [("bert", "bfloat16"), ("opt", "int8"), ("vit", "bfloat16")])
def test_every_product_of_a_block_is_of_integers(monkeypatch, family, kind):
    monkeypatch.setattr(products, "faster_in_bfloat16", lambda: kind == "bfloat16")
    result, batch = everything(family)
    model = convert(result)
    found = list(dots(jax.make_jaxpr(lambda b: model.apply(b))(batch).jaxpr))
    wide = {"int8": "int32", "bfloat16": "float32"}[kind]
    assert found == [(kind, kind, wide)] * len(PRODUCTS)
    apply.clear_cache()  # of the other kind
    assert not set(PRODUCTS) & set(model.in_floating_point)
    assert_same_answers(model, result, batch)


@pytest.mark.representative("True-1025-nd*", "False-7169-abn*", "True-1024-bthd*")
@pytest.mark.parametrize("equation", ["nd,df->nf", "bthd,bshd->bhts", "abn,abm->nm"])
@pytest.mark.parametrize("summed", [1, 1023, 1024, 1025, 3000, 7 * 1024 + 1])
@pytest.mark.parametrize("extreme", [True, False])
def test_products_of_integers_are_exact_in_bfloat16(equation, summed, extreme):
    operands, result = equation.split("->")
    sizes = dict(zip("nfbthsm", (2, 3, 2, 3, 2, 3, 3), strict=True)) | {"d": summed}
    if result == "nm":
        sizes |= {"a": summed, "b": 3}
    rng = np.random.default_rng(summed)
    shapes = [tuple(sizes[letter] for letter in letters) for letters in operands.split(",")]
    # All at an end give the largest sum; 127 in one place makes it odd, which float32 does not hold beyond 2^24.
    x, y = (np.full(shape, -128) if extreme else rng.integers(-128, 128, shape) for shape in shapes)
    x.flat[-1], y.flat[-1] = 127, 127
    found = products.in_bfloat16(equation, jnp.asarray(x, jnp.int8), jnp.asarray(y, jnp.int8))
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(
        np.asarray(found, np.int64), np.einsum(equation, x.astype(np.int64), y.astype(np.int64))
    )


@pytest.mark.slow
def test_what_stays_in_floating_point_is_named():
    model = convert(quantized("bert", GATED[0], **GATED[1])[0])
    gate = ("layers/attention/gate_predictor", "layers/attention/out")
    assert model.in_floating_point == ("head/product", *gate)


@pytest.mark.slow
def test_bits_of_zero_leave_a_tensor_in_floating_point_in_that_layer_alone():
    result, batch = quantized("bert", GATED[0], **GATED[1])
    activations = {path: dict(r) for path, r in result.activation_ranges.items()}
    activations["layers/attention/probs"]["bits"] = jnp.array([8.0, 0.0, 8.0])
    activations["layers/attention_norm"]["bits"] = jnp.zeros(3)
    partly = dataclasses.replace(result, activation_ranges=activations)
    model = convert(partly)
    left = set(model.in_floating_point) - set(convert(result).in_floating_point)
    assert left == {"layers/attention/context_product", "layers/mlp/in"}
    assert_same_answers(model, partly, batch)


@pytest.mark.slow
def test_weights_with_a_zero_point():
    """Of one sign, their symmetric grid is unsigned, [0, 255], and its int8 has the zero-point -128."""
    module, params, batch = make("bert")
    params = jax.tree.map(lambda x: x, params)  # A copy: others use them too.
    kernel = params["layers"]["mlp"]["in"]["kernel"]
    params["layers"]["mlp"]["in"]["kernel"] = jnp.abs(kernel).at[:, :, 0].set(kernel[:, :, 0])
    weight, activation = QuantizationConfig(weight_granularity="channel").quantizers("w8a8")
    recipe = QuantizationConfig(weight_granularity="channel").make_recipe("w8a8", module.config)
    result = calibrate(module, params, recipe, [batch], 1)
    model = convert(result)
    zero_points = np.unique(model.integers["layers/mlp/in/kernel_zero_point"])
    np.testing.assert_array_equal(zero_points, [-128, 0])
    assert_same_answers(model, result, batch)


@pytest.mark.slow
def test_a_bfloat16_model_computes_in_float32_between_products():
    result, batch = quantized("vit", dtype="bfloat16")
    module = build(dataclasses.replace(result.module.config, dtype="float32"))
    in_float32 = dataclasses.replace(result, module=module)
    assert_same_answers(convert(result), in_float32, batch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, path, change, says",
    [
        ("weight", "layers/mlp/in/kernel", {"bits": [16.0]}, "has 16 bits: integers expect 2 to 8"),
        ("activation", "layers/mlp/hidden", {"bits": [9.0]}, "has 9 bits"),
        ("activation", "layers/mlp/hidden", {"minimum": np.zeros((1, 32))}, "has a range per channel"),
        ("activation", "layers/mlp/hidden", {"minimum": None}, "has ranges that are made while"),
    ],
)
def test_what_int8_cannot_do_is_refused(kind, path, change, says):
    result, _ = quantized("bert")
    ranges = {**result.ranges(kind)}
    changed = {**ranges[path], **{name: jnp.asarray(x) for name, x in change.items() if x is not None}}
    ranges[path] = {name: x for name, x in changed.items() if change.get(name, x) is not None}
    if "minimum" in ranges[path]:
        ranges[path]["maximum"] = ranges[path]["minimum"] + 1
    with pytest.raises(QtxError, match=f"the {kind} {path!r} {says}"):
        convert(dataclasses.replace(result, **{f"{kind}_ranges": ranges}))


@pytest.mark.slow
def test_training_is_refused():
    result, batch = quantized("bert")
    with pytest.raises(QtxError, match="train=False"):
        convert(result).apply(batch, train=True, rngs={"dropout": jax.random.key(0)})


@functools.cache
def per_tensor(family, num_layers):
    """A model with every activation quantized but the head's, per tensor."""
    result, batch = quantized(family, num_layers=num_layers, recipe="strict")
    return off_the_edges(result), batch


def with_groups(result, batch, sites):
    """Every second dimension of `sites` on a grid of its own, half as wide."""
    ranges, shapes = dict(result.activation_ranges), site_shapes(result.module, result.params, batch)
    for site in sites:
        factor = np.where(np.arange(shapes[site].features) % 2, 0.5, 1.0).astype(np.float32)
        ends = {end: ranges[site][end][..., None] * factor for end in ("minimum", "maximum")}
        ranges[site] = {**ranges[site], **ends}
    return dataclasses.replace(result, activation_ranges=ranges)


def converted(result, sites):
    """The integer model; None if it is refused in one line that names a site with groups and says what to set."""
    try:
        return convert(result)
    except QtxError as error:
        said = str(error)
        assert "\n" not in said and "activation_granularity=tensor" in said
        assert any(repr(site) in said for site in sites)
        return None


GROUPED = [("opt", 1), ("bert", 2), ("vit", 2)]


@pytest.mark.long
@pytest.mark.parametrize("family, num_layers", GROUPED)
def test_groups_of_dimensions_are_right_or_refused(family, num_layers):
    """Each site alone; those that are not refused alone, together; and what enters a post-LN block."""
    result, batch = per_tensor(family, num_layers)
    accepted = [s for s in result.activation_ranges if converted(with_groups(result, batch, [s]), [s]) is not None]
    assert {"layers/attention_residual", "layers/mlp_residual", "layers/mlp/out"} <= set(accepted)
    pairs = [("embeddings/norm", "layers/mlp_norm")] if family == "bert" else []
    for sites in (accepted, accepted[::2], accepted[1::2], *pairs):
        grouped = with_groups(result, batch, sites)
        model = converted(grouped, sites)
        if model is not None:
            assert_same_answers(model, grouped, batch)
        assert (model is None) == (sites in pairs), sites


@pytest.mark.slow
@pytest.mark.parametrize("num_layers", [1, 2])
def test_groups_that_enter_a_post_norm_block_are_refused(num_layers):
    result, batch = per_tensor("bert", num_layers)
    with pytest.raises(QtxError, match="'embeddings/norm' has a range per channel"):
        convert(with_groups(result, batch, ["embeddings/norm", "layers/mlp_norm"]))
    later = with_groups(result, batch, ["layers/mlp_norm"])
    if num_layers == 1:  # the last layer's output enters no block
        convert(later)
    else:
        with pytest.raises(QtxError, match="'layers/mlp_norm' has a range per channel"):
            convert(later)


class TiedElsewhere(nn.Module):
    """Two tables, of which the head multiplies by one, under a name that is none of ours."""

    @nn.compact
    def __call__(self, batch):
        entries, positions = nn.Embed(11, 8, name="entries"), nn.Embed(4, 8, name="positions")
        x = entries(batch["tokens"]) + positions(jnp.arange(batch["tokens"].shape[1]))
        return dense_product(nn.LayerNorm(name="norm")(x), entries.embedding.T, None)


class ReadDirectly(nn.Module):
    """A table that is read as it is beside its look-ups, which alone are quantized."""

    @nn.compact
    def __call__(self, batch):
        entries = nn.Embed(11, 8, name="entries")
        return entries(batch["tokens"]) + jnp.take(entries.embedding, batch["tokens"] + 1, axis=0)


FROM_ELSEWHERE = {"tied": TiedElsewhere, "read directly": ReadDirectly}


@pytest.mark.representative("opt-tied1")
@pytest.mark.parametrize(
    ("name", "tied"),
    [("bert", {"embeddings/words/embedding"}), ("opt", {"embeddings/words/embedding"}), ("vit", set())]
    + [(name, {"entries/embedding"}) for name in FROM_ELSEWHERE],
)
def test_the_tables_that_more_than_look_ups_read_are_found_in_the_program(name, tied):
    if name in FROM_ELSEWHERE:
        module, batch = FROM_ELSEWHERE[name](), {"tokens": np.zeros((1, 2), np.int32)}
    else:
        module = build(FAMILIES[name].config(**SMALL, **OF_FAMILY[name]))
        batch = module.config.example()
    assert read(module, batch).operands.tied == tied


class Strange(nn.Module):
    """A dense layer that runs twice on tensors of different sizes, and a product that is no dense layer's."""

    config: BertConfig

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        layer = dense(8, ("embed", "mlp"), 0.5, jnp.float32, "twice")
        x = layer(nn.LayerNorm(name="norm")(nn.Embed(11, 8, name="entries")(batch["tokens"])))
        x = layer(Site(name="large")(10 * nn.relu(x)))
        return nn.Conv(8, (3,), name="convolution")(Site(name="last")(x))


@pytest.mark.slow
def test_a_layer_that_runs_twice_and_a_convolution_stay_in_floating_point():
    module = Strange(BertConfig(**SMALL, **OF_FAMILY["bert"]))
    batch = {"tokens": np.random.default_rng(0).integers(0, 11, (4, 6)).astype(np.int32)}
    params = module.init(jax.random.key(0), batch)["params"]
    params = nn.unbox(params)
    weight, activation = QuantizationConfig().quantizers("w8a8")
    recipe = Recipe((Rule("*bias", None), Rule("*", weight)), (Rule("*", activation),))
    result = calibrate(module, params, recipe, [batch], 1)
    model = convert(result)
    assert {"twice", "convolution"} <= set(model.in_floating_point)
    np.testing.assert_allclose(model.apply(batch), result.apply(batch), atol=1e-5)
