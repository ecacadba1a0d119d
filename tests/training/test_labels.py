"""Fine-tuning on texts with labels: F1, what a new head leaves of its start, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score as scikit_learn_f1

from qtx.cli.main import main
from qtx.data import DataConfig, load_tokenizer
from qtx.data.sources import TextLabels
from qtx.experiment import default, read
from qtx.families import build
from qtx.foundation.config import section
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.losses import LogitDistillation, Training
from qtx.losses.cross_entropy import class_sums, cross_entropy_sums
from qtx.losses.divergences import LOGITS
from qtx.models import BertConfig
from qtx.pipeline.assemble import assemble
from qtx.pipeline.importing import Found, config_of_checkpoint, import_run
from qtx.pipeline.inheritance import inheriting
from qtx.pipeline.initial import start_params
from qtx.training.evaluate import add_up
from tests.data.samples import WORDS, write_labels

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
SHAPE = dict(num_layers=1, width=8, num_heads=2, mlp_width=12, vocab_size=len(VOCABULARY), max_length=16)


@pytest.mark.representative("0-3")
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_f1_is_scikit_learn_s(classes, seed):
    """Of two classes the second's, of several macro; over batches, without what has weight 0."""
    rng = np.random.default_rng(seed)
    there = rng.choice(classes, size=max(2, classes - 1), replace=False)  # one of several may be missing
    logits = rng.normal(size=(3, 16, classes)).astype(np.float32)
    labels = rng.choice(there, size=(3, 16)).astype(np.int32)
    weights = (rng.random((3, 16)) < 0.8).astype(np.float32)
    batches = [{"logits": x, "labels": y, "weights": w} for x, y, w in zip(logits, labels, weights, strict=True)]
    found = add_up(lambda batch: class_sums(batch["logits"], batch["labels"], batch["weights"]), batches)
    counted = weights > 0
    average = {"average": "binary"} if classes == 2 else {"average": "macro"}
    expected = scikit_learn_f1(labels[counted], logits.argmax(-1)[counted], **average)
    assert found["f1"] == pytest.approx(expected, abs=1e-12)
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels)[counted].mean())
    assert found["predictions"] == counted.sum()


def test_f1_without_a_positive_is_0_and_other_sums_have_none():
    batch = {"labels": np.zeros(3, np.int32), "weights": np.ones(3, np.float32)}
    logits = np.array([[1.0, 0.0]] * 3, np.float32)
    assert add_up(lambda b: class_sums(logits, b["labels"], b["weights"]), [batch])["f1"] == 0.0
    assert "f1" not in add_up(lambda b: cross_entropy_sums(logits, b["labels"], b["weights"]), [batch])


@pytest.mark.parametrize(
    ("objective", "head", "needed"),
    [
        *[("mlm", head, "mlm") for head in ("classification", "none")],
        *[("sequence_classification", head, "classification") for head in ("mlm", "none")],
    ],
)
def test_an_objective_and_a_head_that_do_not_fit(objective, head, needed):
    config = default("bert")
    config.objective, config.model.head = objective, head
    config.data.source = "stdlib" if objective == "mlm" else "stdlib_labels"
    message = f"config.model.head is '{head}', but objective '{objective}' trains the head '{needed}': choose another"
    with pytest.raises(QtxError, match=message):
        read(config)
    config.model.head = needed
    assert read(config).model.head == needed


def checkpoint(folder: Path, **options) -> Path:
    """A BERT of random weights, no two alike, with a tokenizer."""
    config = BertConfig(**SHAPE, **options)
    variables = jax.eval_shape(build(config).init, jax.random.key(0), config.example())
    leaves, tree = jax.tree.flatten(nn.unbox(variables["params"]))
    rng = np.random.default_rng(0)
    save(folder, config, jax.tree.unflatten(tree, [rng.normal(size=x.shape).astype(np.float32) for x in leaves]))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return folder


def data_config(folder: Path, **options) -> DataConfig:
    file = write_labels(folder / "texts.jsonl")
    return DataConfig(TextLabels(files=(str(file),), sequence_length=12, held_out_fraction=0.3, **options))


def imported(root: Path, **options) -> Path:
    """The folder of the run of a checkpoint."""
    folder = checkpoint(root / "checkpoint", **options)
    config = config_of_checkpoint(Found(folder, "a test")).unlock()
    config.data, config.objective = section(data_config(root, tokenizer=str(folder))), "distill"
    import_run(read(config), root / "imported", Found(folder, "a test"))
    return root / "imported"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("encoder"), head="none")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("classifier"), head="classification", num_classes=2)


def fine_tuning(start: Path, **changes):
    """The experiment that learns the labels of the texts beside a run, from that run."""
    config = default("bert").unlock()
    config.start, config.objective, config.model.head = str(start), "sequence_classification", "classification"
    config.data = section(data_config(start.parent))
    config.training.update({"steps": 4, "batch_size": 8, "warmup_steps": 1})
    config.mesh.data = 1
    config.update(changes)
    return inheriting(config.lock())


def started(config):
    """What an experiment starts from, and the module that it trains."""
    assembled = assemble(read(config), workdir=Path(config.start))
    return start_params(assembled, config.start), assembled.module


def equal(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.slow
def test_a_new_head_on_the_very_encoder(encoder):
    params, module = started(fine_tuning(encoder))
    assert (module.config.head, module.config.num_classes) == ("classification", 2)
    head = params.pop("head")
    assert equal(params, load(encoder / "imported")[1])
    fresh = jax.jit(module.init)(jax.random.key(0), {"tokens": jnp.zeros((3, 7), jnp.int32)})["params"]["head"]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), head, nn.unbox(fresh))
    another = started(fine_tuning(encoder, seed=1))[0].pop("head")
    assert not np.array_equal(another["pooler"]["kernel"], head["pooler"]["kernel"])


@pytest.mark.slow
def test_a_head_for_the_same_classes_stays_and_one_for_as_many_others_is_new(classifier):
    config, there = fine_tuning(classifier), load(classifier / "imported")[1]
    params, _ = started(config)  # of labels that the classifier, whose classes have no names, does not know
    assert not np.array_equal(params.pop("head")["logits"]["kernel"], there["head"]["logits"]["kernel"])
    config.data.classes = ("blue", "red")
    params, _ = started(config)
    assert equal(params, there)


@pytest.mark.slow
def test_a_head_for_other_classes_is_new(classifier):
    config = fine_tuning(classifier)
    assert config.model.num_classes is None  # the data tell, not the start
    config.data.classes = ("blue", "green", "red")
    params, module = started(config)
    there = load(classifier / "imported")[1]
    assert (params["head"]["logits"]["kernel"].shape, module.config.num_classes) == ((8, 3), 3)
    assert not np.array_equal(params.pop("head")["pooler"]["kernel"], there.pop("head")["pooler"]["kernel"])
    assert equal(params, there)


def test_what_is_taught_needs_the_teacher_s_head(classifier):
    config = fine_tuning(classifier, objective="distill")
    config.model.head = "none"
    message = "compares outputs with those of .*, whose model.head is 'classification', but config.model.head is 'none'"
    with pytest.raises(QtxError, match=message):
        assemble(read(config), workdir=classifier)


@pytest.mark.slow
def test_a_classifier_is_held_to_its_teacher_s_logits():
    """By the formulas, in NumPy: with the divergence of the probabilities in training."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 5, 3)).astype(np.float32)
    weights = np.array([1, 1, 1, 1, 0], np.float32)
    batch = {LOGITS: theirs, "weights": weights, "tokens": np.zeros((5, 4), np.int32), "mask": np.ones((5, 4), bool)}
    hidden = rng.normal(size=(1, 5, 4, 6)).astype(np.float32)
    taught = {**batch, "teacher_layers/layers/mlp_norm": np.moveaxis(hidden, 0, 1)}
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (theirs, ours))
    captured = {"layers/mlp_norm": jnp.asarray(hidden)}
    trained = LogitDistillation()(jnp.asarray(ours), taught, Training(captured, taught))
    np.testing.assert_allclose(trained.loss, (p * np.log(p / q)).sum(1)[:4].sum(), rtol=1e-5)


CONFIG = """
from qtx.experiment import default

def get_config(variant="softmax"):
    config = default("bert", variant)
    config.objective = {objective!r}
    config.model.head = {head!r}
    config.data.source = "text_labels"
    config.data.files = ({file!r},)
    config.data.sequence_length = 12
    config.data.held_out_fraction = 0.3
    config.training.update({{"steps": 4, "batch_size": 8, "warmup_steps": 1, "checkpoint_every": 2}})
    config.mesh.data = 1
    return config
"""


@pytest.mark.parametrize(
    ("named", "learned"),
    [(None, False), (("LABEL_0", "LABEL_1"), False), (("up", "down"), False), (("up", "down"), True)],
)
def test_an_export_names_classes_that_have_no_names(tmp_path, named, learned):
    """By the data, which name them in another order than the alphabet's here; those that the original has stay, unless
    others were learned."""
    folder, original = checkpoint(tmp_path / "checkpoint", head="classification", num_classes=2), None
    config, params = load(folder)
    if named:
        values = json.loads((folder / "config.json").read_text()) | {"id2label": dict(zip("01", named, strict=True))}
        (folder / "config.json").write_text(json.dumps(values))
        original = folder
    save(tmp_path / "out", config, params, original, classes=("red", "blue"), learned=learned)
    values = json.loads((tmp_path / "out/config.json").read_text())
    stay = named == ("up", "down") and not learned
    assert list(values["id2label"].values()) == (["up", "down"] if stay else ["red", "blue"])
    if not stay:
        assert values["label2id"] == {"red": 0, "blue": 1}


@pytest.mark.parametrize(
    ("classes", "expected"), [(("red",), ["red", "LABEL_1"]), (("0", "1"), ["LABEL_0", "LABEL_1"])]
)
def test_an_export_has_a_name_for_every_class_and_takes_no_number_for_one(tmp_path, classes, expected):
    save(tmp_path / "out", *load(checkpoint(tmp_path / "in", head="classification", num_classes=2)), classes=classes)
    values = json.loads((tmp_path / "out/config.json").read_text())
    assert values["id2label"] == dict(zip("01", expected, strict=True))
    assert values["label2id"] == {name: number for number, name in enumerate(expected)}


@pytest.mark.long
def test_from_a_checkpoint_to_a_classifier_and_its_pupil(tmp_path, encoder, capsys):
    """Labels are learned from an encoder; then the classifier is the teacher of one that starts from it."""
    file = str(encoder.parent / "texts.jsonl")
    for name, objective, head in (("labels", "sequence_classification", "classification"), ("pupil", "distill", "mlm")):
        (tmp_path / f"{name}.py").write_text(CONFIG.format(objective=objective, head=head, file=file))
    for name, start in (("labels", encoder), ("pupil", tmp_path / "run_labels")):
        run = f"--workdir={tmp_path / f'run_{name}'}"
        assert main(["train", f"--config={tmp_path / name}.py", f"--config.start={start}", run]) == 0
        assert main(["evaluate", run]) == 0
        assert ("| F1 |" in capsys.readouterr().out) == (name == "labels")
        results = json.loads((tmp_path / f"run_{name}" / "results.json").read_text())
        (measured,) = results["measurements"]
        assert ("f1" in measured["values"]) == (name == "labels")
        if name == "labels":
            assert main(["export", "--format=huggingface", run]) == 0
            values = json.loads((tmp_path / "run_labels/export/huggingface/config.json").read_text())
            assert values["id2label"] == {"0": "blue", "1": "red"}
            out, kept = (load_tokenizer(tmp_path / f"run_labels{x}") for x in ("/export/huggingface", ""))
            assert out.template == kept.template and out.backend.get_vocab() == kept.backend.get_vocab()
    assert results["metric"] == "fidelity" and measured["values"]["fidelity"] > 0.9
