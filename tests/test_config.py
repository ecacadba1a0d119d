"""Experiments as configs: defaults, config files, variants, overrides, and their record."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal, Optional

import flax.linen as nn
import jax
import pytest

from qtx.analysis import attention_health
from qtx.attention import VARIANTS, AttentionConfig, attention_text, attention_variant
from qtx.attention.gates import LinearGate
from qtx.attention.normalizers import NORMALIZERS, ClippedSoftmax, Softmax
from qtx.cli.flags import load_config_file, parse
from qtx.data import OBJECTIVES
from qtx.experiment import CompareConfig, Experiment, default, from_record, read, record
from qtx.families import FAMILIES
from qtx.foundation.config import read_section, section
from qtx.foundation.errors import QtxError
from qtx.pipeline.assemble import assemble

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
NANO = str(Path(__file__).parent / "nano_config.py")


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float | None = None


@dataclasses.dataclass(frozen=True)
class Outer:
    size: int = 3
    names: tuple[str, ...] = ("a",)
    inner: Inner = Inner()


def test_section_and_build_are_inverse():
    options = Outer(5, ("a", "b"), Inner(0.5))
    assert read_section(Outer, section(options), "config.outer") == options


def test_an_option_that_is_none_keeps_its_type():
    shown = section(Outer())
    assert shown.inner.rate is None
    shown.inner.rate = 1
    assert read_section(Outer, shown, "config.outer").inner.rate == 1.0
    with pytest.raises(TypeError):
        shown.inner.rate = "fast"


@pytest.mark.parametrize("family", FAMILIES)
def test_default_reads_back(family):
    experiment = read(default(family))
    assert isinstance(experiment, Experiment)
    assert type(experiment.model) is FAMILIES[family].config
    assert experiment.quantization.recipe == FAMILIES[family].recipe


@pytest.mark.representative("*-clipped_softmax", "*-softmax", "*-bert")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "variant", [*VARIANTS, "clipped_softmax,alpha=None,gamma=-0.1,zeta=1.1", "gated_mlp,gate_hidden=4"]
)
def test_record_is_the_whole_experiment(family, variant):
    experiment = read(default(family, variant))
    assert read(from_record(record(experiment), "a record")) == experiment


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_by_name(name):
    assert attention_variant(name) == VARIANTS[name]


def test_variant_with_options():
    attention = attention_variant("clipped_softmax,alpha=2,gamma_warmup_steps=50")
    assert attention.normalizer == ClippedSoftmax(alpha=2.0, gamma_warmup_steps=50)
    assert attention_variant("clipped_softmax,alpha=None,gamma=-0.03").normalizer == ClippedSoftmax(gamma=-0.03)
    assert attention_variant("softmax,gate=linear,gate_pi=0.5").gate == LinearGate(pi=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clipped_softmax,4", "'4' is not an option=value"),
        ("clipped_softmax,alpha=high", "config.model.attention.alpha is 'high': expected float"),
        ("clipped_softmax,gamma=-0.1", "takes one of gamma, alpha, alpha_visible, got gamma and alpha"),
        ("clipped_softmax,alpha=None,gamma=0.1", "gamma is 0.1: expected gamma <= 0"),
        ("", "unknown attention variant ''"),
    ],
)
def test_bad_variant(text, message):
    with pytest.raises(QtxError, match="attention variant") as error:
        attention_variant(text)
    assert message in str(error.value)


@pytest.mark.parametrize("options", [{"variants": ()}, {"seeds": (0, 0)}, {"seeds": (True,)}, {"variants": (1,)}])
def test_bad_comparison(options):
    with pytest.raises(QtxError, match=next(iter(options))):
        CompareConfig(**options)


def test_missing_section():
    config = default("opt").unlock()
    del config["mesh"]
    with pytest.raises(QtxError, match="config.mesh is missing: start the config file from"):
        read(config)


@pytest.mark.representative("heal_bert", "opt_books", "vit_s16", "demo")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_files(path):
    for variant in VARIANTS:
        experiment = read(load_config_file(f"{path}:{variant}"))
        length = getattr(experiment.data.source, "sequence_length", None)  # of images, these tell
        expected = VARIANTS[variant] if length is None else VARIANTS[variant].trained_at(length)
        assert experiment.model.attention == expected
    assert read(load_config_file(str(path))).name == path.stem
    text = path.read_text()
    assert f"--config=configs/{path.name}" in text and "Cost: " in text and "Expected: " in text


def test_shipped_configs_are_found_by_name_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()  # as a run's folder may be called
    for path in CONFIGS:
        assert load_config_file(path.stem).to_dict() == load_config_file(str(path)).to_dict()
    for suffix in (":gated_linear", ":smoke", ":gated_linear:smoke"):
        file = CONFIGS[0].with_name("demo.py")
        assert load_config_file(f"demo{suffix}").to_dict() == load_config_file(f"{file}{suffix}").to_dict()


def test_a_file_comes_before_a_shipped_config_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").write_text(Path(NANO).read_text())
    assert load_config_file("demo").name == "nano"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_vit", "bigram_backcopy", "demo"])
def test_clipped_attention_of_small_configs_starts_alive(name):
    base = read(load_config_file(str(Path(__file__).parents[1] / "configs" / f"{name}.py")))
    (variant,) = (text for text in base.compare.variants if text.startswith("clipped_softmax"))
    model = dataclasses.replace(base.model, attention=attention_variant(variant))
    mesh = dataclasses.replace(base.mesh, data=1)
    assembled = assemble(dataclasses.replace(base, model=model, mesh=mesh))
    batch = next(iter(assembled.evaluation()))
    params = nn.unbox(jax.jit(assembled.module.init)(jax.random.key(0), batch)["params"])
    assert attention_health(assembled.module, params, batch, step=0)["dead_row_share"] < 0.05


def test_overrides():
    config, workdir = parse(
        [
            "--workdir=runs/x",
            f"--config={NANO}:clipped_softmax",
            "--config.model.attention.alpha=2",
            "--config.model.width",
            "16",
            "--config.compare.seeds=(3, 4)",
            "--config.model.remat=dots",
            "--config.training.clip_norm=0.5",
        ]
    )
    experiment = read(config)
    assert workdir == Path("runs/x")
    assert experiment.model.attention.normalizer.alpha == 2.0
    assert experiment.model.width == 16
    assert experiment.compare.seeds == (3, 4)
    assert experiment.model.remat == "dots"
    assert math.isclose(experiment.training.clip_norm, 0.5)


def test_parsing_leaves_no_trace():
    first, _ = parse([f"--config={NANO}", "--config.seed=5"])
    second, _ = parse([f"--config={NANO}"])
    assert (first.seed, second.seed) == (5, 0)


@pytest.mark.parametrize(
    "text",
    [
        *VARIANTS,
        "clipped_softmax,alpha=2.0",
        "clipped_softmax,gamma=-0.03,alpha=None",
        "clipped_softmax,gate=mlp,gate_pi=0.4,gate_hidden=4",
        "sink,gate=elementwise",
        "gated_headwise,gate_place=values",
    ],
)
def test_an_attention_is_named_by_the_nearest_variant(text):
    attention = attention_variant(text)
    named = attention_text(attention)
    assert attention_variant(named) == attention
    assert named.count(",") <= text.count(",")


def of_a_stranger(**fields):
    """A normalizer with these options, (type, default) by name."""
    return dataclasses.make_dataclass(
        "Strange",
        [(name, kind, dataclasses.field(default=default)) for name, (kind, default) in fields.items()],
        bases=(Softmax,),
        frozen=True,
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"cap": (float | None, 50.0)}, "option cap of 'strange' may be None and is 50.0 by default"),
        ({"gate_pi": (float, 0.3)}, "gate_pi is an option of a .* and of something else beside it"),
        ({"gate": (str, "open")}, "gate is an option of a normalizer and of something else beside it"),
        ({"alpha": (str, "")}, "option alpha of 'strange' is str, and float of another"),
        ({"kind": (Literal["a", "b"], "a")}, "Strange.kind is of type .*: expected a class, such as float"),
    ],
)
def test_an_option_that_a_section_cannot_show_is_refused_and_not_lost(fields, says, monkeypatch):
    monkeypatch.setitem(NORMALIZERS, "strange", of_a_stranger(**fields))
    with pytest.raises(QtxError, match=says):
        section(AttentionConfig())


def test_optional_options_and_those_without_a_default(monkeypatch):
    monkeypatch.setitem(NORMALIZERS, "strange", of_a_stranger(cap=(Optional[float], None)))  # noqa: UP045
    assert attention_variant("softmax,normalizer=strange,cap=2").normalizer.cap == 2.0
    monkeypatch.setitem(NORMALIZERS, "strange", of_a_stranger(cap=(float, dataclasses.MISSING)))
    with pytest.raises(QtxError, match="normalizer 'strange' needs cap"):
        attention_variant("softmax,normalizer=strange")


def test_a_class_that_is_in_no_registry_is_told():
    with pytest.raises(QtxError, match="Strange has no name: enter it in the registry of softmax, "):
        attention_text(AttentionConfig(of_a_stranger()()))


def test_label_smoothing_beside_a_teacher_is_refused():
    config = default("bert")
    config.objective, config.start = "distill", "runs/x"
    config.training.label_smoothing = 0.1
    with pytest.raises(QtxError, match="label_smoothing is 0.1, but objective 'distill' learns from a teacher"):
        read(config)


@pytest.mark.parametrize(
    ("family", "source", "fitting"), [("bert", "digits", "stdlib"), ("vit", "stdlib", "photographs")]
)
def test_what_a_teacher_shows_is_what_the_family_reads(family, source, fitting):
    """Texts and images both serve that objective."""
    config = default(family)
    config.objective, config.data.source = "distill", source
    with pytest.raises(QtxError, match=f"config.data.source is '{source}', but the {family}.*e.g. '{fitting}'"):
        read(config)
    config.data.source = fitting
    assert read(config).data.name == fitting


MEASURED = {
    ("sequence_regression", "regression", "rank_correlation"): None,
    ("sequence_regression", "regression", "accuracy"): "expected one of loss, correlation, rank_correlation$",
    ("multi_label_classification", "multi_label", "accuracy"): "expected one of loss, f1$",
    ("distill", "none", "centred_fidelity"): None,
    ("distill", "classification", "centred_fidelity"): "expected one of loss, fidelity$",
}


@pytest.mark.parametrize("objective, head, best", MEASURED)
def test_what_is_best_is_measured(objective, head, best):
    """What is not was told by a KeyError at the first evaluation, or an hour after the start."""
    config = default("bert")
    config.objective, config.model.head, config.training.best_metric = objective, head, best
    config.data.source = OBJECTIVES[objective].built_in_sources["tokens"]
    told = MEASURED[objective, head, best]
    if told is None:
        assert read(config).training.best_metric == best
        return
    with pytest.raises(QtxError, match=told):
        read(config)
