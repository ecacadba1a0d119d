"""Calibration and fake quantization of whole models, over every recipe and attention variant."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from qtx.anatomy import read
from qtx.attention import VARIANTS, AttentionSpec, MultiHeadAttention, attention_variant
from qtx.families import FAMILIES, build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig
from qtx.quantization import RECIPES, QuantizationConfig, Recipe, Rule, calibrate, make_grid
from qtx.quantization.calibration import calibration_step
from qtx.quantization.estimators import RunningMinMax
from qtx.quantization.plan import weights_of
from qtx.sites import Site, site_shapes

SMALL = {"num_layers": 2, "width": 16, "num_heads": 2, "mlp_width": 32, "init_std": 0.3}
OF_FAMILY = {
    "bert": {"vocab_size": 23, "max_length": 8},
    "opt": {"vocab_size": 23, "max_length": 8},
    "modern_bert": {"vocab_size": 23, "max_length": 8, "local_distance": 2},
    "rotary_bert": {"vocab_size": 23, "max_length": 8, "relative_buckets": 8},
    "llama": {"vocab_size": 23, "max_length": 8, "num_kv_heads": 1},
    "vit": {"image_size": 8, "channels": 3, "num_classes": 5, "patch_size": 4},
}


def make(family, attention="softmax"):
    rng = np.random.default_rng(0)

    def batch():
        if family == "vit":
            return {"images": rng.normal(size=(4, 8, 8, 3)).astype(np.float32)}
        return {"tokens": rng.integers(0, 23, (4, 8))}

    config = FAMILIES[family].config(**SMALL, **OF_FAMILY[family], attention=VARIANTS[attention].trained_at(8))
    module, batches = build(config), [batch() for _ in range(3)]
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), batches[0])["params"]), batches


def quantized(family, attention="softmax", scheme="w8a8", **options):
    module, params, batches = make(family, attention)
    config = QuantizationConfig(**{"recipe": FAMILIES[family].recipe, "calibration_batches": 3, **options})
    return calibrate(module, params, config.make_recipe(scheme, module.config), batches, 3), params, batches[0]


apply = jax.jit(lambda result, batch: result.apply(batch))
captures = jax.jit(lambda result, batch: result.apply(batch, capture_intermediates=True, mutable=["intermediates"])[1])


def difference(result, params, batch):
    logits = np.asarray(jax.jit(result.module.apply)({"params": params}, batch))
    return np.linalg.norm(np.asarray(apply(result, batch)) - logits) / np.linalg.norm(logits)


# Every attention once, every family with a third of them.
IN_TURN = list(zip(itertools.cycle(sorted(FAMILIES)), sorted(VARIANTS)))  # noqa: B905


@pytest.mark.slow
@pytest.mark.parametrize("family, attention", IN_TURN[::2])
def test_more_bits_are_nearer_to_floating_point(family, attention):
    module, params, (batch, *_) = make(family, attention)
    config = QuantizationConfig(recipe=FAMILIES[family].recipe, weight_estimator="minmax")

    def error(scheme):
        # Evaluated on what it was calibrated on, so that nothing is clipped.
        result = calibrate(module, params, config.make_recipe(scheme, module.config), [batch], 1)
        return difference(result, params, batch)

    errors = [error(scheme) for scheme in ("w16a16", "w8a8", "w4a4")]
    assert errors[0] < 1e-3 and errors[0] < errors[1] < errors[2]


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_one_compilation_serves_all_bit_widths(family):
    quantized(family, scheme="w8a8", weight_estimator="minmax")
    before = calibration_step._cache_size()
    for scheme in ("w6a8", "w8a6", "w4a4"):
        quantized(family, scheme=scheme, weight_estimator="minmax")
    assert calibration_step._cache_size() == before


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_planned_tensor_is_on_its_grid(family):
    result, _, batch = quantized(family, scheme="w4a4")
    planned = {planned.path: planned.symmetric for planned in result.activation_plan}
    captured = captures(result, batch)
    for path, symmetric in planned.items():
        node = captured["intermediates"]
        for key in path.split("/"):
            node = node[key]
        y, r = np.asarray(node["__call__"][0]), result.activation_ranges[path]
        y = y if r["bits"].ndim else y[None]
        for layer, values in enumerate(y):
            ends = (np.atleast_1d(r[end])[layer] for end in ("minimum", "maximum", "bits"))
            grid = make_grid(*ends, symmetric)
            q = values / float(grid.scale) + float(grid.zero_point)
            np.testing.assert_allclose(q, np.round(q), atol=1e-3, err_msg=path)
            assert len(np.unique(np.round(q))) <= 16, path


@pytest.mark.slow
def test_tied_head_keeps_the_unquantized_table_and_look_ups_do_not():
    result, params, batch = quantized("opt", scheme="w2a16")
    assert "embeddings/words/embedding" in result.weight_ranges
    np.testing.assert_array_equal(
        result.params["embeddings"]["words"]["embedding"], params["embeddings"]["words"]["embedding"]
    )
    captured = captures(result, batch)
    assert len(np.unique(captured["intermediates"]["embeddings"]["words"]["__call__"][0])) <= 4


@pytest.mark.slow
def test_layers_have_their_own_ranges():
    result, params, _ = quantized("bert")
    kernels = np.asarray(params["layers"]["mlp"]["out"]["kernel"])
    r = result.weight_ranges["layers/mlp/out/kernel"]
    np.testing.assert_array_equal(r["minimum"], kernels.min(axis=(1, 2)))
    ends = np.asarray(result.activation_ranges["layers/mlp/out"]["maximum"])
    assert ends.shape == (2,) and ends[0] != ends[1]


@pytest.mark.slow
def test_running_minmax_over_batches_by_hand():
    """The first site sees unquantized sums of quantized look-ups, so its range can be worked out."""
    module, params, batches = make("bert")
    recipe = Recipe(
        (Rule("*", None),),
        (Rule("embeddings/token_type_sum", QuantizationConfig().quantizers("w8a8")[1]), Rule("*", None)),
    )
    r = calibrate(module, params, recipe, batches, 3).activation_ranges["embeddings/token_type_sum"]
    table, types = (params["embeddings"][n]["embedding"] for n in ("words", "token_types"))
    seen = [np.asarray(table)[b["tokens"]] + np.asarray(types)[0] for b in batches]
    expected = seen[0].max()
    for x in seen[1:]:
        expected = 0.1 * x.max() + 0.9 * expected
    assert float(r["maximum"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "gate_site, bert, opt", [("context", False, True), ("gated_context", True, False), ("gate", False, False)]
)
def test_the_papers_quirks_around_the_gate(gate_site, bert, opt):
    for family, expected in (("bert", bert), ("opt", opt)):
        result, _, _ = quantized(family, "gated_linear")
        assert (f"layers/attention/{gate_site}" in result.activation_ranges) == expected
        assert not any("gate_predictor" in path for path in result.weight_ranges)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_recipes_leave_only_what_the_paper_leaves(family):
    result, params, batch = quantized(family)
    left = site_shapes(result.module, params, batch).keys() - result.activation_ranges.keys()
    head = {path for path in left if path.startswith("head/")}
    gated = {"modern_bert", "rotary_bert", "llama"}
    assert left - head == {"layers/mlp/in"} | ({"layers/mlp/gate"} if family in gated else set())
    assert bool(head) == (family != "vit")


def test_every_recipe_is_tested():
    assert {family.recipe for family in FAMILIES.values()} | {"strict", "matmul"} == RECIPES.keys()


@pytest.mark.slow
def test_the_matmul_recipe_quantizes_what_linear_layers_multiply():
    result, _, _ = quantized("bert", "gated_mlp", recipe="matmul")
    layers = {f"layers/{name}/kernel" for name in ("attention/query", "attention/key", "attention/value")}
    layers |= {f"layers/{name}/kernel" for name in ("attention/out", "mlp/in", "mlp/out")}
    tables = {f"embeddings/{name}/embedding" for name in ("words", "positions", "token_types")}
    assert result.weight_ranges.keys() == layers | tables
    read = {"embeddings/norm", "layers/attention_norm", "layers/mlp_norm", "layers/mlp/hidden"}
    assert result.activation_ranges.keys() == read | {"layers/attention/gated_context"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, attention", [("bert", "gated_mlp"), ("opt", "gated_all_heads"), ("vit", "clipped_softmax")]
)
def test_the_strict_recipe_leaves_the_head_and_biases_alone(family, attention):
    result, params, batch = quantized(family, attention, recipe="strict")
    left = site_shapes(result.module, params, batch).keys() - result.activation_ranges.keys()
    assert {path.split("/")[0] for path in left} == {"head"}
    weights = set(traverse_util.flatten_dict(params, sep="/")) - result.weight_ranges.keys()
    assert all(path.startswith("head/") or path.endswith("bias") for path in weights)
    assert ("layers/attention/gate_predictor/kernel" in result.weight_ranges) == attention.startswith("gated")


@pytest.mark.slow
def test_score_ranges_ignore_what_queries_do_not_see():
    module, params, batches = make("opt")
    batches = [{**batch, "mask": np.arange(8)[None] < np.array([[8], [8], [5], [2]])} for batch in batches]
    ranges = {}
    for name in ("strict", "paper_opt"):
        recipe = QuantizationConfig(recipe=name).make_recipe("w16a16", module.config)
        ranges[name] = calibrate(module, params, recipe, batches[:1], 1).activation_ranges["layers/attention/scores"]
    seen = jax.jit(lambda p, b: module.apply({"params": p}, b, capture_intermediates=True)[1])(params, batches[0])
    scores = np.asarray(seen["intermediates"]["layers"]["attention"]["scores"]["__call__"][0])
    visible = np.tril(np.ones((8, 8), bool)) & batches[0]["mask"][:, None, None, :]
    visible &= batches[0]["mask"][:, None, :, None]
    for name in ranges:
        expected = np.where(visible, scores, -np.inf).max(axis=(1, 2, 3, 4))
        np.testing.assert_allclose(ranges[name]["maximum"], expected, rtol=1e-2)
    assert (expected < scores.max(axis=(1, 2, 3, 4))).any()


SCHEMES = [
    {"weight_granularity": "channel"},
    {"activation_granularity": "group"},
    {"activation_granularity": "token"},
    {"activation_estimator": "mse"},
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    SCHEMES,
    ids=lambda options: "-".join(options.values()),
)
def test_other_granularities_and_estimators_run_under_the_scan(options):
    result, params, batch = quantized("opt", scheme="w8a8", weight_estimator="minmax", **options)
    assert 0 < difference(result, params, batch) < 0.1
    kernel, out = result.weight_ranges["layers/mlp/out/kernel"], result.activation_ranges["layers/mlp/out"]
    assert kernel["maximum"].shape == ((2, 16) if "weight_granularity" in options else (2,))
    if options.get("activation_granularity") == "token":
        assert out.keys() == {"bits"}
    else:
        assert out["maximum"].shape == ((2, 16) if "activation_granularity" in options else (2,))
        assert result.activation_ranges["layers/attention/probs"]["maximum"].shape == (2,)


@pytest.mark.slow
def test_a_recipe_of_the_users_own_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from qtx.quantization import Recipe, Rule\n"
        "def careful(config, weight, activation):\n"
        "    return Recipe((Rule('*', None),), (Rule('layers/mlp/out', activation), Rule('*', None)))\n"
    )
    result, _, _ = quantized("bert", recipe=f"{file}:careful")
    assert (result.weight_ranges, result.activation_ranges.keys()) == ({}, {"layers/mlp/out"})
    for name, says in (("other", "no function 'other'"), ("careful", "does not run: NameError")):
        if name == "careful":
            file = tmp_path / "broken.py"
            file.write_text("careful = undefined\n")
        with pytest.raises(QtxError, match=says):
            QuantizationConfig(recipe=f"{file}:{name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, says",
    [
        (
            Recipe((Rule("*", None),), (Rule("layers/*", None),)),
            "no activation rule of the recipe matches 'embeddings/",
        ),
        (Recipe((Rule("*", None), Rule("gate/*", None)), (Rule("*", None),)), "weight rule 'gate/\\*' matches none of"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(recipe, says):
    module, params, batches = make("bert")
    with pytest.raises(QtxError, match=says):
        calibrate(module, params, recipe, batches, 3)


@pytest.mark.slow
def test_too_few_batches_and_broken_weights_are_refused():
    module, params, batches = make("bert")
    recipe = QuantizationConfig().make_recipe("w8a8", module.config)
    with pytest.raises(QtxError, match="got 3 batches, expected 4"):
        calibrate(module, params, recipe, batches, 4)
    params["layers"]["mlp"]["out"]["kernel"] = params["layers"]["mlp"]["out"]["kernel"].at[1, 0, 0].set(jnp.nan)
    with pytest.raises(QtxError, match="weight range of 'layers/mlp/out/kernel' is not finite"):
        calibrate(module, params, recipe, batches, 3)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"recipe": "paper_brt"}, "did you mean 'paper_bert'"),
        ({"schemes": ("w8",)}, "expected w<weight bits>a<activation bits>"),
        ({"schemes": ("w1a8",)}, "bits is 1: expected 2 to 16"),
        ({"weight_estimator": "max"}, "unknown weight_estimator"),
        ({"activation_estimator": "max"}, "unknown activation_estimator"),
        ({"weight_granularity": "token"}, "unknown weight_granularity"),
        ({"activation_granularity": "channel"}, "unknown activation_granularity"),
        ({"activation_granularity": "group,num_groups=0"}, "num_groups is 0"),
        ({"method": "smoothqant"}, "unknown method"),
        ({"recipe": "absent.py:mine"}, "there is no file absent.py"),
        ({"activation_estimator": "mse,percentile=99.9"}, "unknown key in activation_estimator 'mse,percentile=99.9'"),
        ({"schemes": ()}, "schemes is empty"),
        ({"schemes": ("w8a17",)}, "bits is 17: expected 2 to 16"),
        ({"sensitivity_batches": 0}, "sensitivity_batches is 0"),
        ({"activation_estimator": "running_minmax,percentile=20"}, "percentile is 20.0"),
        ({"calibration_batches": 0}, "at least 1"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(QtxError, match=says):
        QuantizationConfig(**options)


@pytest.mark.slow
def test_a_quantized_model_is_a_pytree_that_jit_takes():
    result, _, batch = quantized("bert")
    np.testing.assert_allclose(jax.jit(lambda r, b: r.apply(b))(result, batch), result.apply(batch), atol=1e-4)
    assert dataclasses.replace(result).weight_plan == result.weight_plan


class Elsewhere(nn.Module):
    """Attention with a sink, in modules of other names."""

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, batch):
        first, *others = self.names
        if others:
            return Elsewhere(tuple(others), name=first)(batch)
        return MultiHeadAttention(AttentionSpec(2, attention_variant("sink")), True, name=first)(batch["x"])


@pytest.mark.parametrize("layer", ["self_attention", "decoder/cross"])
def test_what_a_normalizer_learns_is_no_weight_wherever_it_is(layer):
    anatomy = read(Elsewhere(tuple(layer.split("/"))), {"x": np.zeros((1, 3, 4), np.float32)})
    dense = {f"{layer}/{name}/{leaf}" for name in ("query", "key", "value", "out") for leaf in ("kernel", "bias")}
    assert weights_of(anatomy).keys() == dense == anatomy.parameters.keys() - {f"{layer}/normalizer/sinks"}


class NoTable(nn.Module):
    """Adds what is called as embedding tables are, and is none."""

    config: BertConfig

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        x = nn.Embed(11, 4, name="words")(batch["tokens"])
        return Site(name="sum")(x + self.param("embedding", nn.initializers.ones, x.shape[1:]))


class Outside(nn.Module):
    config: BertConfig

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        return NoTable(self.config, name="inner")(batch)


def test_a_parameter_that_is_called_as_tables_are_and_is_none_is_refused():
    batch = {"tokens": np.zeros((2, 3), np.int32)}
    module = Outside(BertConfig())
    params = module.init(jax.random.key(0), batch)["params"]
    recipe = QuantizationConfig(recipe="strict").make_recipe("w8a8", module.config)
    with pytest.raises(QtxError, match="'inner/embedding' would be quantized where it is looked up, but no nn.Embed"):
        calibrate(module, params, Recipe((Rule("*", recipe.weights[-1].quantizer),), (Rule("*", None),)), [batch], 1)


@dataclasses.dataclass(frozen=True)
class Turned(RunningMinMax):
    def result(self, state):
        minimum, maximum = super().result(state)
        return maximum, minimum


@pytest.mark.slow
def test_an_estimator_with_its_ends_the_wrong_way_round_is_refused():
    module, params, batches = make("bert")
    weight, activation = QuantizationConfig().quantizers("w8a8")
    turned = dataclasses.replace(activation, estimator=Turned())
    with pytest.raises(QtxError, match="activation range of 'layers/mlp/out' has a minimum above its maximum"):
        recipe = Recipe((Rule("*", None),), (Rule("layers/mlp/out", turned), Rule("*", None)))
        calibrate(module, params, recipe, batches, 3)
