"""Every family with every attention variant: sites, masks, layer axis, and parameter counts of the published models."""

import dataclasses
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx.attention import VARIANTS
from qtx.attention.gates import DenseGate
from qtx.families import FAMILIES, build
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig, OptConfig, VitConfig
from qtx.sites import site_shapes

SMALL = {"num_layers": 2, "width": 16, "num_heads": 2, "mlp_width": 32, "init_std": 0.3}
OF_FAMILY = {
    "bert": {"vocab_size": 23, "max_length": 8},
    "modern_bert": {"vocab_size": 23, "max_length": 8, "local_distance": 2},
    "rotary_bert": {"vocab_size": 23, "max_length": 8, "relative_buckets": 8},
    "opt": {"vocab_size": 23, "max_length": 8},
    "llama": {"vocab_size": 23, "max_length": 8, "num_kv_heads": 1},
    "vit": {"image_size": 8, "channels": 3, "num_classes": 5, "patch_size": 4, "patch_norm": True},
}


def make(family, attention="softmax", **options):
    config = FAMILIES[family].config(
        **{**SMALL, **OF_FAMILY[family], "attention": VARIANTS[attention].trained_at(8), **options}
    )
    module = build(config)
    rng = np.random.default_rng(0)
    if family == "vit":
        batch = {"images": rng.normal(size=(2, 8, 8, 3)).astype(np.float32)}
    else:
        batch = {"tokens": rng.integers(0, 23, (2, 8)), "mask": np.arange(8) < np.array([[8], [5]])}
    return module, nn.unbox(jax.jit(module.init)(jax.random.key(0), batch)["params"]), batch


BLOCK_SITES = {"attention/" + s for s in ("query", "key", "value", "scores", "probs", "context", "out")}
BLOCK_SITES |= {"attention_residual", "attention_norm", "mlp/in", "mlp/hidden", "mlp/out", "mlp_residual", "mlp_norm"}
FAMILY_SITES = {
    "bert": {"embeddings/token_type_sum", "embeddings/sum", "embeddings/norm"}
    | {"head/transform", "head/norm", "head/logits"},
    "modern_bert": {"embeddings/norm", "final_norm", "head/transform", "head/norm", "head/logits"},
    "rotary_bert": {"embeddings/token_type_sum", "embeddings/norm", "head/transform", "head/norm", "head/logits"},
    "opt": {"embeddings/sum", "final_norm", "head/logits"},
    "llama": {"embeddings/out", "final_norm", "head/logits"},
    "vit": {"embeddings/patches", "embeddings/patch_norm", "embeddings/sum", "final_norm", "head/logits"},
}


ROTARY_SITES = {"attention/rotated_query", "attention/rotated_key", "mlp/gate"}
MORE_SITES = {**dict.fromkeys(("rotary_bert", "llama"), ROTARY_SITES), "modern_bert": ROTARY_SITES | {"attention_in"}}


# Every attention in one family, in turn: the block is the same in all.
IN_TURN = {(attention, list(FAMILIES)[i % len(FAMILIES)]) for i, attention in enumerate(sorted(VARIANTS))}


@pytest.mark.representative("gated_linear-opt")
@pytest.mark.parametrize(
    ("attention", "family"),
    sorted(IN_TURN | {(name, family) for name in ("softmax", "gated_linear") for family in FAMILIES}),
)
def test_sites_are_those_of_the_design_and_layers_carry_the_layer_axis(family, attention):
    gate = VARIANTS[attention].gate
    block = BLOCK_SITES | ({"attention/gate", "attention/gated_context"} if gate is not None else set())
    block |= {"attention/gate_predictor"} if isinstance(gate, DenseGate) else set()
    block |= MORE_SITES.get(family, set())
    expected = {f"layers/{site}": (2,) for site in block} | {site: () for site in FAMILY_SITES[family]}
    assert {path: shape.leading for path, shape in site_shapes(*make(family, attention)).items()} == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "family, attention",
    [("bert", name) for name in sorted(VARIANTS)[::2]] + [("opt", "softmax"), ("vit", "softmax"), ("vit", "none")],
)
def test_logits_are_finite_float32_and_gradients_reach_every_parameter(family, attention):
    module, params, batch = make(family, attention)

    def loss(p):
        return jnp.square(module.apply({"params": p}, batch)).mean()

    assert jax.eval_shape(lambda p: module.apply({"params": p}, batch), params).dtype == jnp.float32
    gradients = jax.jit(jax.grad(loss))(params)
    untouched = {
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.any(np.asarray(g))
    }
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))
    # With attention off, neither its projections nor, in pre-LN blocks, the norm before them take part; and nothing
    # moves from ViT's patches to its class token.
    allowed = ("attention", "patch") if attention == "none" else ()
    assert all(any(name in path for name in allowed) for path in untouched), untouched


@pytest.mark.representative("gated_mlp-bert")
@pytest.mark.parametrize(
    ("attention", "family"), [(name, ("bert", "opt")[i % 2]) for i, name in enumerate(sorted(VARIANTS)[::2])]
)
def test_padding_does_not_change_what_real_tokens_get(family, attention):
    module, params, batch = make(family, attention)
    other = {**batch, "tokens": np.where(batch["mask"], batch["tokens"], 3)}
    real = batch["mask"]
    np.testing.assert_array_equal(
        np.asarray(module.apply({"params": params}, batch))[real],
        np.asarray(module.apply({"params": params}, other))[real],
    )


@pytest.mark.slow
@pytest.mark.parametrize("attention", sorted(VARIANTS))
def test_opt_is_causal(attention):
    module, params, batch = make("opt", attention)
    tokens = batch["tokens"]
    later = tokens.copy()
    later[:, 5:] = (later[:, 5:] + 1) % 23
    a, b = (np.asarray(module.apply({"params": params}, {"tokens": t})) for t in (tokens, later))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert np.any(a[:, 5:] != b[:, 5:])


@pytest.mark.slow
def test_bert_head_at_positions_equals_the_full_head():
    module, params, batch = make("bert")
    positions = np.array([[1, 4, 4], [0, 2, 3]])
    full = np.asarray(module.apply({"params": params}, batch))
    some = module.apply({"params": params}, {**batch, "positions": positions})
    np.testing.assert_allclose(some, np.take_along_axis(full, positions[..., None], 1), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_computes_near_float32(family):
    module, params, batch = make(family)
    narrow, _, _ = make(family, dtype="bfloat16")
    a, b = (np.asarray(m.apply({"params": params}, batch)) for m in (module, narrow))
    assert b.dtype == np.float32
    assert 0 < np.linalg.norm(a - b) / np.linalg.norm(a) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_off_unless_training(family):
    module, params, batch = make(family, dropout=0.5)
    on = module.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(0)})
    assert np.any(np.asarray(on) != np.asarray(module.apply({"params": params}, batch)))


@pytest.mark.parametrize(
    "options, says",
    [
        ({"width": 100, "num_heads": 12}, "not divisible by num_heads 12: set width to 96"),
        ({"num_layers": 0}, "at least 1"),
        ({"dropout": 1.0}, r"in \[0, 1\)"),
        ({"dtype": "float16"}, "unknown dtype 'float16': did you mean 'bfloat16'"),
        ({"init_std": 0.0}, "positive"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_bad_shapes_are_refused(family, options, says):
    with pytest.raises(QtxError, match=says):
        FAMILIES[family].config(**options)


def text(vocab_size=23, sequence_length=8):
    return types.SimpleNamespace(
        vocab_size=vocab_size, sequence_length=sequence_length, image_size=None, channels=None, num_classes=None
    )


def test_build_takes_what_is_left_open_from_the_data():
    assert build(BertConfig(**SMALL), text()).config.vocab_size == 23
    assert build(BertConfig(**SMALL, vocab_size=30), text()).config.vocab_size == 30


@pytest.mark.parametrize(
    "config, data, says",
    [
        (BertConfig(vocab_size=10), text(), "vocab_size is 10, but the data has 23"),
        (OptConfig(max_length=4), text(), "sequence_length 8 exceeds .*max_length 4: set it to 4 or less"),
        (VitConfig(), text(), "the data has no"),
        (
            VitConfig(num_classes=2),
            dataclasses.make_dataclass(
                "Images", [("image_size", int, 32), ("channels", int, 3), ("num_classes", int, 10)]
            )(),
            "num_classes is 2, but the data has 10",
        ),
        (
            VitConfig(image_size=16, channels=3),
            dataclasses.make_dataclass("Images", [("image_size", int, 32)])(),
            "image_size is 16, but the data has 32: set config.data.image_size to 16",
        ),
    ],
)
def test_build_refuses_data_of_another_model(config, data, says):
    with pytest.raises(QtxError, match=says):
        build(config, data)


@pytest.mark.slow
def test_opt_drops_out_on_its_branches_alone():
    """As transformers' OPTDecoder, whose embeddings enter the first layer whole: without branches nothing is random."""
    config = OptConfig(num_layers=1, width=16, num_heads=2, mlp_width=32, vocab_size=20, max_length=8, dropout=0.5)
    module, batch = build(config), {"tokens": np.arange(16, dtype=np.int32).reshape(2, 8)}
    params = nn.unbox(module.init(jax.random.key(0), batch)["params"])
    silent = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if "out" in [key.key for key in path] else x, params
    )

    def logits(params, seed):
        return module.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(seed)})

    np.testing.assert_array_equal(logits(silent, 0), logits(silent, 1))
    assert not np.array_equal(logits(params, 0), logits(params, 1))


def test_epsilons_are_the_published_ones():
    """BERT and OPT of transformers' configurations, ViT of timm's `vision_transformer` (`norm_layer` with eps 1e-6)."""
    assert (BertConfig().layer_norm_epsilon, OptConfig().layer_norm_epsilon) == (1e-12, 1e-5)
    assert VitConfig().layer_norm_epsilon == 1e-6
