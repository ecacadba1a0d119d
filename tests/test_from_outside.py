"""What the package does not have, registered from outside, goes through train, quantize, export and report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from safetensors.numpy import load_file

from qtx.attention import GATES, NORMALIZERS
from qtx.attention.normalizers import Rows
from qtx.cli.flags import load_config_file, load_run_config
from qtx.cli.main import main
from qtx.data import OBJECTIVES, SOURCES, Data, DataConfig, load
from qtx.data.objectives import CausalLanguageModelling, TextObjective
from qtx.data.objectives.causal import causal_example
from qtx.data.sources import TextFiles
from qtx.data.sources.stdlib import Document
from qtx.experiment import read
from qtx.families import FAMILIES
from qtx.foundation.errors import QtxError
from qtx.masks import Mask
from qtx.quantization.estimators import ESTIMATORS
from qtx.quantization.granularity import GRANULARITIES
from qtx.quantization.methods import METHODS
from qtx.quantization.recipes import RECIPES
from qtx.training import read_metrics
from qtx.training.optimizer import OPTIMIZERS
from qtx.training.penalties import PENALTIES
from qtx.training.schedules import SCHEDULES
from tests.strangers import Shrunk, Whole, Widened, careful, documented, root, signs

NANO = Path(__file__).with_name("nano_config.py")
DOCUMENTED = documented("adding-a-variant.md")
ATTENTION = "softmax,normalizer=temperature,gate=diagonal,gate_pi=0.25"


@pytest.fixture
def strangers(monkeypatch):
    """One of each kind, registered."""
    for registry, name, entry in (
        (NORMALIZERS, "temperature", DOCUMENTED["Temperature"]),
        (GATES, "diagonal", DOCUMENTED["DiagonalGate"]),
        (PENALTIES, "kurtosis", DOCUMENTED["Kurtosis"]),
        (METHODS, "shrunk", Shrunk),
        (ESTIMATORS, "widened", Widened),
        (GRANULARITIES, "whole", Whole),
        (RECIPES, "careful", careful),
        (OPTIMIZERS, "signs", signs),
        (SCHEDULES, "root", root),
    ):
        monkeypatch.setitem(registry, name, entry)


def test_the_documented_normalizer_computes_its_formula():
    scores = np.random.default_rng(0).normal(size=(1, 2, 4, 4)).astype(np.float32)
    t = np.array([0.5, 2.0], np.float32)
    found = DOCUMENTED["Temperature"]()({"temperature": t}, scores, Rows(Mask(4, causal=True)))
    for h in range(2):
        for i in range(4):
            e = np.exp(t[h] * scores[0, h, i, : i + 1])
            np.testing.assert_allclose(found[0, h, i, : i + 1], e / e.sum(), rtol=1e-5)


def test_the_documented_gate_computes_its_formula():
    rng = np.random.default_rng(0)
    gate, x = DOCUMENTED["DiagonalGate"](pi=0.25), rng.normal(size=(2, 5, 3, 4))
    parameters = {name: rng.normal(size=of.shape) for name, of in gate.parameters(3, 4).items()}
    found = gate(parameters, x)
    assert gate.parameters(3, 4)["bias"].start == pytest.approx(np.log(0.25 / 0.75))
    for b, i, h, d in np.ndindex(x.shape):
        logit = parameters["kernel"][h, d] * x[b, i, h, d] + parameters["bias"][h, d]
        assert found[b, i, h, d] == pytest.approx(logit)


def test_the_documented_penalty_computes_its_formula():
    x = np.random.default_rng(0).normal(size=(6, 9))
    expected = (scipy.stats.kurtosis(x, axis=-1, fisher=False) - 2) ** 2
    np.testing.assert_allclose(DOCUMENTED["Kurtosis"](target=2.0)(x, 0), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_one_of_each_kind_goes_all_the_way(strangers, tmp_path, capsys):
    """Trained, quantized and reported by `qtx compare`, measured again by a method, and taken away."""
    workdir, options = (
        tmp_path / "compared",
        {
            "compare.variants": (ATTENTION,),
            "compare.seeds": (0,),
            "training.penalties": ("kurtosis,weight=0.01",),
            "training.optimizer": "signs",
            "training.schedule": "root",
            "quantization.activation_estimator": "widened,factor=1.25",
            "quantization.weight_granularity": "whole",
            "quantization.recipe": "careful",
            "quantization.schemes": ("w8a8",),
        },
    )
    given = [f"--config.{name}={value}" for name, value in options.items()]
    assert main(["compare", f"--config={NANO}", f"--workdir={workdir}", *given]) == 0, capsys.readouterr().err
    run = workdir / "runs" / f"{ATTENTION}-seed0"
    assert all("penalty/kurtosis" in line for line in read_metrics(run, "train"))
    assert (
        "temperature" in (workdir / "table.md").read_text() and "temperature" in (workdir / "report.html").read_text()
    )

    assert main(["quantize", f"--workdir={run}", "--method=shrunk,factor=0.5"]) == 0, capsys.readouterr().err
    measured = json.loads((run / "results.json").read_text())["measurements"]
    values = {line.get("method"): line["values"]["perplexity"] for line in measured}
    assert values.keys() == {None, "static", "shrunk,factor=0.5"}
    near = pytest.approx(values[None], rel=1e-3)
    assert values["static"] == near and values["shrunk,factor=0.5"] != near

    for form in ("int8", "huggingface"):
        assert main(["export", f"--format={form}", f"--workdir={run}"]) == 0, capsys.readouterr().err
    assert main(["evaluate", f"--workdir={run / 'export' / 'int8'}"]) == 0, capsys.readouterr().err
    names = load_file(run / "export" / "huggingface" / "model.safetensors")
    assert {name.rpartition(".")[2] for name in names if "temperature" in name} == {"temperature"}
    assert sum("gate_predictor" in name for name in names) == 2 * sum("temperature" in name for name in names)


class LastTokens(TextObjective):
    """The last tokens of every block, all of them masked."""

    tokenizer = "wordpiece"
    mask_probability = 0.25

    def example(self, tokenizer, predictions):
        def last_tokens(block, rng):
            positions = np.arange(len(block) - predictions, len(block), dtype=np.int32)
            tokens = block.copy()
            tokens[positions] = tokenizer.mask
            return {
                "tokens": tokens,
                "mask": np.ones(len(block), bool),
                "positions": positions,
                "labels": block[positions],
                "weights": np.ones(predictions, np.float32),
            }

        return last_tokens


BERT = """
from qtx.experiment import default

def get_config(variant="softmax"):
    config = default("bert", variant)
    config.model.update({{"num_layers": 1, "width": 8, "num_heads": 2, "mlp_width": 16, "max_length": 16}})
    config.data.source = "text_files"
    config.data.files = config.data.validation_files = ({text!r},)
    config.data.sequence_length = 16
    config.data.vocab_size = 40
    config.training.update({{"steps": 3, "batch_size": 8, "warmup_steps": 1}})
    config.mesh.data = 1
    return config
"""
FOX = "The quick brown fox jumps over the lazy dog, again and again.\n" * 50


@pytest.fixture
def last_tokens(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "last_tokens", LastTokens())
    bert = dataclasses.replace(FAMILIES["bert"], objectives=("last_tokens",))
    monkeypatch.setitem(FAMILIES, "bert", bert)


@pytest.fixture
def fox(tmp_path):
    (tmp_path / "fox.txt").write_text(FOX)
    return str(tmp_path / "fox.txt")


def test_an_objective_works_with_every_text_source(last_tokens, fox, tmp_path, monkeypatch):
    documents = (Document("first", FOX), Document("second", FOX))
    monkeypatch.setattr("qtx.data.sources.stdlib.stdlib_documents", lambda: documents)
    sources = {
        "stdlib": dict(vocab_size=40),
        "text_files": dict(files=(fox,), validation_files=(fox,), vocab_size=40),
        "text_corpus": dict(corpora=(fox,), validation_corpora=(fox,), vocab_size=40, data_dir=str(tmp_path / "tfds")),
    }
    assert set(sources) == {name for name, cls in SOURCES.items() if cls.serves(OBJECTIVES["last_tokens"])}
    for source, options in sources.items():
        data = load(DataConfig(SOURCES[source](sequence_length=16, **options)), "last_tokens")
        batch, block = next(iter(data.evaluation(1))), data.held_out[0]
        np.testing.assert_array_equal(batch["tokens"][0], [*block[:12], *[data.tokenizer.mask] * 4])
        np.testing.assert_array_equal(batch["labels"][0], block[12:])


@pytest.mark.slow
def test_an_objective_is_trained(last_tokens, fox, tmp_path, capsys):
    config, run = tmp_path / "config.py", tmp_path / "run"
    config.write_text(BERT.format(text=fox))
    arguments = [f"--config={config}", "--config.objective=last_tokens", "--config.data.mask_probability=0.2"]
    assert main(["train", f"--workdir={run}", *arguments]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "last_tokens, 3 steps of batch 8" in out and "perplexity" in out
    recorded = json.loads((run / "config.json").read_text())
    assert (recorded["objective"], recorded["data"]["mask_probability"]) == ("last_tokens", 0.2)
    (evaluated,) = read_metrics(run, "eval")
    data = load(read(load_config_file(str(config))).data, "last_tokens")
    assert evaluated["predictions"] == 4 * len(data.held_out)  # ceil(0.2 * 16) of each block


def test_mistakes_with_an_objective_are_told_by_its_name(last_tokens, fox):
    def load_with(objective, **options):
        load(DataConfig(TextFiles(files=(fox,), validation_files=(fox,), **options)), objective)

    with pytest.raises(QtxError, match="unknown objective 'lst_tokens': did you mean 'last_tokens'"):
        load_with("lst_tokens")
    with pytest.raises(QtxError, match=r"objective last_tokens needs a tokenizer with \[MASK\].*, or objective clm"):
        load_with("last_tokens", tokenizer="bpe", vocab_size=262)
    with pytest.raises(QtxError, match="objective clm masks nothing: leave it unset, or choose mlm or last_tokens"):
        load_with("clm", mask_probability=0.5)


@dataclasses.dataclass(frozen=True)
class Counting:
    """Sequences that count in strides, modulo the vocabulary."""

    sequence_length: int = 8
    vocab_size: int = 16
    stride: int = 1

    @staticmethod
    def serves(objective):
        return isinstance(objective, CausalLanguageModelling)

    def load(self, objective):
        steps = self.stride * np.arange(self.sequence_length + 1, dtype=np.int32)
        records = [(first + steps) % self.vocab_size for first in range(self.vocab_size)]
        sizes = {"vocab_size": self.vocab_size, "sequence_length": self.sequence_length}
        return Data(f"strides of {self.stride}", records, records, lambda record, rng: causal_example(record), **sizes)


@pytest.mark.slow
def test_a_data_source_with_an_option_of_its_own_is_configured(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(SOURCES, "counting", Counting)
    run, stride = tmp_path / "run", "--config.data.stride=2"
    train = ["train", f"--config={NANO}", f"--workdir={run}"]
    assert main([*train, stride]) == 2
    refused = "stride is set, but source 'bigram_backcopy' does not take it: it belongs to text_windows, questions, "
    assert f"{refused}counting" in capsys.readouterr().err
    assert main([*train, "--config.data.source=counting", stride]) == 0, capsys.readouterr().err
    assert "strides of 2" in capsys.readouterr().out
    recorded = json.loads((run / "config.json").read_text())["data"]
    given = {"source": "counting", "sequence_length": 8, "vocab_size": 16, "stride": 2}
    assert {name: value for name, value in recorded.items() if value is not None} == given
    assert read(load_run_config(run)).data == DataConfig(Counting(stride=2))
