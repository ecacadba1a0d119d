"""The table of model families: every entry fits its module, and one from elsewhere is known wherever they are."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qtx import anatomy, interop
from qtx.data import OBJECTIVES
from qtx.experiment import default, read
from qtx.families import FAMILIES, Family, MeasuredSites, build, family_of
from qtx.foundation.errors import QtxError
from qtx.models import BertConfig, LlamaConfig, ModernBertConfig, OptConfig, RotaryBertConfig, VitConfig
from qtx.pipeline.smoke import smoke
from qtx.planning.stand_in import stand_in
from qtx.quantization import QuantizationConfig
from qtx.quantization.plan import quantizers_of
from qtx.quantization.recipes import RECIPES
from qtx.sites import capture, site_shapes

SHAPE = {"num_layers": 2, "width": 8, "num_heads": 2, "mlp_width": 12, "init_std": 0.3}
TEXT = {"vocab_size": 11, "max_length": 6}
CONFIGS = {
    "bert": BertConfig(**SHAPE, **TEXT),
    "modern_bert": ModernBertConfig(**SHAPE, **TEXT),
    "rotary_bert": RotaryBertConfig(**SHAPE, **TEXT, relative_buckets=4),
    "opt": OptConfig(**SHAPE, **TEXT),
    "opt post-LN": OptConfig(**SHAPE, **TEXT, pre_norm=False, embedding_width=4),
    "llama": LlamaConfig(**SHAPE, **TEXT, num_kv_heads=1),
    "llama with all options": LlamaConfig(
        **SHAPE,
        **TEXT,
        num_kv_heads=1,
        head_dim=6,
        qk_norm=True,
        branch_norms=True,
        norm_offset=1.0,
        score_cap=5.0,
        logit_cap=3.0,
        rotary_share=2 / 3,
        window=2,
        global_layers=(1,),
        tied=False,
    ),
    "vit": VitConfig(**SHAPE, image_size=4, patch_size=2, channels=1, num_classes=5),
}


def shapes_of(module):
    return nn.unbox(jax.eval_shape(module.init, jax.random.key(0), module.config.example())["params"])


def test_every_family_is_in_the_table_and_has_a_config_of_its_own():
    assert {name.split()[0] for name in CONFIGS} == FAMILIES.keys()
    assert len({family.config for family in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_entry_is_that_of_its_config_and_names_what_is_registered(name):
    config, family = CONFIGS[name], FAMILIES[name.split()[0]]
    assert family_of(config) is family
    assert build(config).config == config
    assert family.objectives and set(family.objectives) <= OBJECTIVES.keys()
    assert family.recipe in RECIPES


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_measured_is_a_site_of_the_module(name):
    module = build(CONFIGS[name])
    found = site_shapes(module, shapes_of(module), module.config.example())
    measured = family_of(module.config).measured(module.config)
    assert measured.tensors.keys() <= found.keys()
    assert measured.infinity_norm in measured.kurtosis, "attention_health gives its kurtosis too"
    assert {site for over in measured.maxima.values() for site in over} <= measured.tensors.keys()
    for site, official in measured.tensors.items():
        assert found[site].leading == ((2,) if "{layer}" in official else ()), site


@pytest.mark.representative("bert-*", "vit-its own")
@pytest.mark.parametrize("recipe", ["its own", "strict"])
@pytest.mark.parametrize("name", CONFIGS)
def test_its_recipe_and_the_strict_one_say_of_everything_what_becomes_of_it(name, recipe):
    module = build(CONFIGS[name])
    chosen = family_of(module.config).recipe if recipe == "its own" else recipe
    rules = QuantizationConfig(recipe=chosen).make_recipe("w8a8", module.config)
    weights, sites = quantizers_of(anatomy.read(module, module.config.example()), rules)
    assert "layers/mlp/out/kernel" in weights and "layers/mlp/out/bias" not in weights
    assert "layers/mlp/out" in sites


@pytest.mark.representative("bert", "opt")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_causal_family_and_no_other_hides_the_last_position_from_the_first(name):
    config, module = CONFIGS[name], build(CONFIGS[name])
    one = {key: np.zeros_like(value) for key, value in config.example().items()}
    other = {key: value.copy() for key, value in one.items()}
    assert list(one) == [config.reads]
    if config.reads == "tokens":
        other["tokens"][:, -1] = 1
    else:
        other["images"][:, -1, -1] = 1
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(np.float32), shapes_of(module))
    site = "layers/mlp_residual"
    run = jax.jit(lambda batch: capture(module.apply, {site}, {"params": params}, batch)[1][site])
    first, last = (np.abs(run(one) - run(other))[..., i, :] for i in (0, -1))
    assert last.max() > 0
    assert (first.max() == 0) == config.causal


@dataclasses.dataclass(frozen=True)
class OtherConfig(OptConfig):
    """A family of somebody else's; its word table is where no family of ours has it."""

    slots: int = 8


class Other(nn.Module):
    config: OtherConfig

    @nn.compact
    def __call__(self, batch, *, train=False, step=None):
        table = nn.Embed(self.config.vocab_size, self.config.width, name="entries")
        return jnp.matmul(nn.LayerNorm(name="final_norm")(table(batch["tokens"])), table.embedding.T)


OTHER = Family(
    title="Other",
    module=Other,
    config=OtherConfig,
    objectives=("clm", "mlm"),
    measured=lambda config: MeasuredSites("final_norm", {"final_norm": "final_norm"}),
    small=lambda config, sizes: {"slots": config.slots // 4},
)


@pytest.fixture
def other(monkeypatch):
    monkeypatch.setitem(FAMILIES, "other", OTHER)
    return OtherConfig(**SHAPE, **TEXT)


def test_a_family_from_elsewhere_is_an_experiment_by_its_entry_alone(other):
    config = default("other")
    assert (config.objective, config.quantization.recipe) == ("clm", "strict")
    config.objective = "mlm"
    assert type(read(config).model) is OtherConfig
    config.objective = "classification"
    with pytest.raises(QtxError, match="the other family trains on 'clm' or 'mlm'"):
        read(config)
    assert isinstance(build(other), Other) and family_of(other) is OTHER


def test_a_smoke_test_shrinks_what_a_family_from_elsewhere_says(other):
    assert read(smoke(default("other"))).model.slots == 2


def test_a_plan_does_not_guess_the_vocabulary_of_a_family_from_elsewhere(other):
    config = default("other")
    config.data.update(source="text_files", files=("no.txt",), tokenizer="no/vocab.json")
    with pytest.raises(QtxError, match="set config.model.vocab_size"):
        stand_in(read(config))
    config.model.vocab_size = 300
    assert stand_in(read(config))[0].vocab_size == 300


def test_a_family_without_a_checkpoint_is_refused_and_nothing_is_written(other, tmp_path):
    with pytest.raises(QtxError, match="Other has no Hugging Face format: give its Family a Checkpoint"):
        interop.save(tmp_path / "out", other, shapes_of(build(other)))
    assert not (tmp_path / "out").exists()
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(QtxError, match="expected one of albert, bert, .*opt, .*vit"):
        interop.load(tmp_path)


def test_a_config_of_no_family_is_refused():
    with pytest.raises(QtxError, match="OtherConfig is no model family's config"):
        build(OtherConfig(**SHAPE, **TEXT))


def test_two_families_with_one_config_are_refused(other, monkeypatch):
    monkeypatch.setitem(FAMILIES, "again", OTHER)
    with pytest.raises(QtxError, match="families other and again have the same config, OtherConfig"):
        build(other)
