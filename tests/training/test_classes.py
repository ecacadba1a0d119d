"""Labels are numbered by the classes that a model knows, and by their place never: of checkpoints, of runs and of those
that start from them; of texts and of images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from qtx.cli.flags import load_run_config
from qtx.cli.main import main
from qtx.data import DataConfig
from qtx.data.classes import UnknownLabel
from qtx.data.sources import ImageCorpus, ImageFolder, TextLabels
from qtx.experiment import default, read
from qtx.families import build
from qtx.foundation.config import section
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.models import VitConfig
from qtx.pipeline.analyze import open_run
from qtx.pipeline.identity import load_data
from qtx.pipeline.importing import Found, classes_of, config_of_checkpoint, import_run
from qtx.pipeline.inheritance import inheriting
from qtx.training import RunFolder
from qtx.training.run_folder import CLASSES, IDENTITY
from tests.data.samples import png, prose

from .test_labels import checkpoint

FEELINGS = ("anger", "fear", "joy", "rage")
ANIMALS = ("bee", "cat", "dog", "eel")


def named(folder: Path, names) -> Path:
    """A checkpoint, its classes called by these names."""
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"id2label": names}))
    return folder


def by_number(*names: str) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


def classifier(folder: Path, names=FEELINGS) -> Path:
    return named(checkpoint(folder, head="classification", num_classes=len(names)), by_number(*names))


def texts(file: Path, *labels) -> str:
    rows = [{"text": prose(i, 6), "label": labels[i % len(labels)]} for i in range(6 * len(labels))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def options(file: str, **more) -> DataConfig:
    return DataConfig(TextLabels(files=(file,), validation_files=(file,), sequence_length=10, **more))


def experiment_of(folder: Path, data: DataConfig, objective: str = "sequence_classification"):
    config = config_of_checkpoint(Found(folder, "a test")).unlock()
    config.data, config.objective, config.mesh.data = section(data), objective, 1
    if config.family == "bert":
        config.data.tokenizer = str(folder)
    return read(config)


def imported(folder: Path, workdir: Path, data: DataConfig, objective: str = "sequence_classification") -> Path:
    import_run(experiment_of(folder, data, objective), workdir, Found(folder, "a test"))
    return workdir


def measured_on(workdir: Path, data: DataConfig):
    """The data on which a run is measured that has others."""
    config = load_run_config(workdir, {"data.source"})
    config.data = section(data)
    return load_data(read(config), RunFolder(workdir))


# Names in config.json, data.classes, labels in the file in turns, and their classes, or what is told.
CHECKPOINTS = {
    "names": (FEELINGS, None, ("rage", "anger"), (3, 0)),
    "no names": (tuple(f"LABEL_{i}" for i in range(12)), None, (10, 2, 11), (10, 2, 11)),
    "numbers for names": (tuple("0123"), None, ("LABEL_3", "1.0"), (3, 1)),
    "the data's own names": (FEELINGS, ("a", "b", "c", "d"), ("d", "a"), (3, 0)),
    "the data's own names of the first": (FEELINGS, ("0", "1"), (1, 0), (1, 0)),
    "the data's own numbers": (("LABEL_0", "LABEL_1"), ("2", "1"), (1, 2), (1, 0)),
    "an unknown one": (
        FEELINGS,
        None,
        ("joy", "mixed"),
        "a.jsonl, line 2: label 'mixed' is none of the classes anger, ",
    ),
    "words without names": (
        ("LABEL_0", "LABEL_1"),
        None,
        ("neg", "pos"),
        "'neg' is none of the classes LABEL_0, LABEL_1:",
    ),
    "from one": (("LABEL_0", "LABEL_1"), None, (1, 2), "line 2: label '2' is none of the classes LABEL_0, LABEL_1: "),
    "names in another order": (
        FEELINGS,
        ("fear", "anger", "joy", "rage"),
        ("joy",),
        "data.classes has 'fear' in place 0, but it is the model's class 1 of anger, fear, joy, rage, numbered from 0",
    ),
    "some names in other places": (
        FEELINGS,
        ("anger", "rage"),
        ("anger",),
        "has 'rage' in place 1, but it is the",
    ),
    "too many": (("a", "b"), ("a", "b", "c"), ("c",), "data.classes names 3 classes, but the model has 2, a, b: give"),
}


@pytest.mark.parametrize(("names", "classes", "labels", "expected"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_s_classes_number_the_labels(tmp_path, names, classes, labels, expected):
    folder = classifier(tmp_path / "checkpoint", names)
    experiment = experiment_of(folder, options(texts(tmp_path / "a.jsonl", *labels), classes=classes))
    known = classes_of(experiment, folder)
    if isinstance(expected, str):
        with pytest.raises(QtxError) as error:
            load_data(experiment, classes=known)
        assert expected in str(error.value)
        return
    data = load_data(experiment, classes=known)
    assert data.num_classes == len(names) and build(experiment.model, data).config.num_classes == len(names)
    np.testing.assert_array_equal(data.training[:, -1], np.resize(expected, 6 * len(labels)))


def fine_tuning(start: Path, data: DataConfig):
    config = default("bert").unlock()
    config.start, config.objective, config.model.head = str(start), "sequence_classification", "classification"
    config.data, config.mesh.data = section(data), 1
    return read(inheriting(config.lock()))


# Labels, data.classes, and the classes of the model that starts; or what is told.
STARTS = {
    "some of the start's": (("rage", "joy"), None, FEELINGS),
    "none of the start's, as many": (tuple("abcd"), None, tuple("abcd")),
    "none of the start's, and fewer": (("neg", "pos"), None, ("neg", "pos")),
    "other names of the start's": (("b", "a"), tuple("abcd"), tuple("abcd")),
    "some named anew": (("rage", "joy"), ("joy", "rage"), ("joy", "rage")),
    "some are the start's": (("rage", "calm"), None, "label 'calm' is none of the classes anger, fear, joy, rage: "),
    "the start's in another order": (("joy",), FEELINGS[::-1], "has 'rage' in place 0, but it is the model's class 3"),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    root = tmp_path_factory.mktemp("start")
    return imported(classifier(root / "checkpoint"), root / "run", options(texts(root / "a.jsonl", "joy", "fear")))


def test_a_run_remembers_its_classes(tmp_path, start):
    """Whatever data it is given, and for those that start from it; without labels, it has the checkpoint's."""
    assert RunFolder(start).identity()[CLASSES] == list(FEELINGS)
    data = measured_on(start, options(texts(tmp_path / "b.jsonl", "rage")))
    assert (data.held_out[:, -1] == 3).all() and data.classes == FEELINGS
    with pytest.raises(UnknownLabel, match="'Joy' is none of the classes anger, fear, joy, rage"):
        measured_on(start, options(texts(tmp_path / "b.jsonl", "Joy")))
    shutil.copytree(start, tmp_path / "run")
    run, values = RunFolder(tmp_path / "run"), RunFolder(start).read_config()
    identity = {key: value for key, value in values[IDENTITY].items() if key != CLASSES}
    run.write_config(values | {"objective": "distill", IDENTITY: identity})
    assert load_data(fine_tuning(run.root, options(texts(tmp_path / "b.jsonl", "rage"))), run).classes == FEELINGS


@pytest.mark.parametrize(("labels", "classes", "expected"), STARTS.values(), ids=STARTS)
def test_what_starts_from_a_run_has_its_classes_or_others_of_its_own(tmp_path, start, labels, classes, expected):
    experiment = fine_tuning(start, options(texts(tmp_path / "a.jsonl", *labels), classes=classes))
    if isinstance(expected, str):
        with pytest.raises(QtxError, match=expected):
            load_data(experiment, RunFolder(start))
        return
    data = load_data(experiment, RunFolder(start))
    assert data.classes == expected
    np.testing.assert_array_equal(data.training[: len(labels), -1], [expected.index(label) for label in labels])


def test_a_new_model_of_a_given_number_of_classes_has_numbers_as_they_are(tmp_path, start):
    config = default("bert").unlock()
    config.objective, config.model.head, config.model.num_classes = "sequence_classification", "classification", 4
    from_one, tokenizer = tuple("1234"), str(start.parent / "checkpoint")
    for labels, named, expected in (((3, 1), None, (3, 1)), (("b", "a"), None, (1, 0)), ((4, 1), from_one, (3, 0))):
        file = texts(tmp_path / "a.jsonl", *labels)
        config.data = section(options(file, tokenizer=tokenizer, classes=named))
        np.testing.assert_array_equal(load_data(read(config)).training[:2, -1], expected)
    config.data = section(options(texts(tmp_path / "a.jsonl", 1, 2, 3, 4), tokenizer=tokenizer))
    with pytest.raises(UnknownLabel, match="line 4: label '4' is none of the classes 0, 1, 2, 3: "):
        load_data(read(config))


def test_a_run_of_an_earlier_version_has_the_classes_of_its_own_data_sorted_as_text(tmp_path, start):
    """It recorded none, and had no other order; here twelve whole numbers."""
    file = texts(tmp_path / "a.jsonl", *range(12))
    config = fine_tuning(start, options(file, classes=tuple(map(str, range(12)))))
    run, there = RunFolder(tmp_path / "run"), RunFolder(start)
    (tmp_path / "run").mkdir()
    run.tokenizer.write_text(there.tokenizer.read_text())
    values = there.read_config()
    identity = {key: value for key, value in values[IDENTITY].items() if key != CLASSES}
    data = values["data"] | {"files": [file], "validation_files": [file], "classes": None}
    run.write_config(values | {"data": data, "model": values["model"] | {"num_classes": 12}, IDENTITY: identity})
    found = measured_on(tmp_path / "run", options(texts(tmp_path / "b.jsonl", 2, 10)))
    assert found.classes == tuple(sorted(map(str, range(12))))
    np.testing.assert_array_equal(found.training[:2, -1], [4, 2])  # 0, 1, 10, 11, 2
    assert config.data.source.classes[2] == "2"


def vit(folder: Path, names=ANIMALS) -> Path:
    shape = dict(num_layers=1, width=8, num_heads=2, mlp_width=12, image_size=8, channels=3, patch_size=4)
    config = VitConfig(**shape, num_classes=len(names))
    params = nn.unbox(jax.eval_shape(build(config).init, jax.random.key(0), config.example())["params"])
    save(folder, config, jax.tree.map(lambda x: np.ones(x.shape, np.float32), params))
    return named(folder, by_number(*names))


def images(root: Path, train, held_out) -> Path:
    """A folder of images, those of a class of one colour, and the number of classes in the name of each image."""
    for split, classes in (("train", train), ("val", held_out)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                (root / split / name / f"{i}.png").write_bytes(png((40 * i, 90, 10 * len(name))))
    return root


IMAGES = {
    "lacking one": (ANIMALS, None, ("dog", "bee"), ("dog",), ([0, 0, 2, 2], [2, 2])),
    "held out alone": (ANIMALS, None, ("bee",), ("eel",), ([0, 0], [3, 3])),
    "the folders' names": (ANIMALS, ("n1", "n2", "n3", "n0"), ("n0", "n1"), ("n0",), ([0, 0, 3, 3], [3, 3])),
    "numbers": (("LABEL_0", "LABEL_1", "LABEL_2"), None, ("1", "2"), ("2",), ([1, 1, 2, 2], [2, 2])),
    "an unknown one": (
        ANIMALS,
        None,
        ("bee", "fox"),
        ("bee",),
        "label 'fox' is none of the classes bee, cat, dog, eel",
    ),
    "words without names": (
        ("LABEL_0", "LABEL_1"),
        None,
        ("bee", "cat"),
        ("bee",),
        "'bee' is none of the classes LABEL_0",
    ),
}


@pytest.mark.representative(
    "lacking one-image_folder",
    "numbers-image_corpus",
    "an unknown one-image_folder",
    "words without names-image_corpus",
)
@pytest.mark.parametrize("source", ["image_folder", "image_corpus"])
@pytest.mark.parametrize(("names", "classes", "train", "held_out", "expected"), IMAGES.values(), ids=IMAGES)
def test_images_are_numbered_as_texts_are(tmp_path, source, names, classes, train, held_out, expected):
    folder, root = vit(tmp_path / "checkpoint", names), str(images(tmp_path / "images", train, held_out))
    corpus = ImageCorpus(corpus=root, classes=classes, image_size=8, data_dir=str(tmp_path / "tfds"))
    config = DataConfig(ImageFolder(path=root, classes=classes) if source == "image_folder" else corpus)
    experiment = experiment_of(folder, config, "classification")
    if isinstance(expected, str):
        with pytest.raises(UnknownLabel, match=expected):
            load_data(experiment, classes=classes_of(experiment, folder))
        return
    data = load_data(experiment, classes=classes_of(experiment, folder))
    found = [sorted(int(split[i][1]) for i in range(len(split))) for split in (data.training, data.held_out)]
    assert (found, data.num_classes) == (list(expected), len(names))


@pytest.mark.slow
def test_labels_that_are_not_the_model_s_are_diagnosed_and_nothing_else(tmp_path):
    """As many classes as the model has: by their place they would be its own."""
    folder, root = vit(tmp_path / "checkpoint"), images(tmp_path / "images", ("ant", "cow", "fox", "owl"), ("owl",))
    experiment = experiment_of(folder, DataConfig(ImageFolder(path=str(root))), "classification")
    run = open_run(experiment, tmp_path / "run", Found(folder, "a test"))
    assert run.assembled.data.classes is None
    assert run.assembled.data.description.endswith("; not all labels are the model's: measured by its own outputs")
    with pytest.raises(UnknownLabel, match="label 'ant' is none of the classes bee"):
        load_data(read(load_run_config(tmp_path / "run")), RunFolder(tmp_path / "run"))


def test_the_built_in_digits_are_numbers(tmp_path):
    """A class number of whatever model, as those of idx files are."""
    config = default("vit").unlock()
    config.model.num_classes = 10
    assert load_data(read(config), classes=tuple("abcdefghij")).classes == tuple("abcdefghij")
    assert load_data(read(config), classes=tuple(f"LABEL_{i}" for i in range(10))).classes == tuple("0123456789")
    assert load_data(read(config)).classes == tuple("0123456789")
    with pytest.raises(UnknownLabel, match="has the classes 0, 1, 2, 3, .*, but the model has a, b, c: choose data"):
        load_data(read(config), classes=tuple("abc"))


@pytest.mark.slow
def test_a_model_s_own_answers_are_all_right(tmp_path, capsys):
    """Twelve classes without names, imported and evaluated by the command line; the commands that are told can be
    copied, wherever the run lies."""
    folder = checkpoint(tmp_path / "checkpoint", head="classification", num_classes=12)
    config, params = load(folder)
    file = tmp_path / "a.jsonl"
    data = load_data(experiment_of(folder, options(texts(file, *range(12)))), classes=tuple(map(str, range(12))))
    batch = next(iter(data.evaluation(72)))
    answers = np.asarray(build(config).apply({"params": params}, batch)).argmax(1)
    tokens = {block[:-1].tobytes(): int(answer) for block, answer in zip(data.held_out, answers, strict=True)}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row, block in zip(rows, data.training, strict=True):
        row["label"] = tokens[block[:-1].tobytes()]
    answered = sorted({row["label"] for row in rows})
    assert len(answered) > 1 and answered != list(range(len(answered)))  # by their place they would be other numbers
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, files = tmp_path / "a run [1]", f"('{file}',)"
    told = [
        f"--config.data.files={files}",
        f"--config.data.validation_files={files}",
        "--config.data.source=text_labels",
    ]
    told += ["--config.objective=sequence_classification", "--config.data.sequence_length=10", "--config.mesh.data=1"]
    assert main(["import", str(folder), f"--workdir={run}", *told]) == 0
    assert f"next: qtx quantize --workdir='{run}'" in capsys.readouterr().out
    assert main(["evaluate", f"--workdir={run}"]) == 0
    assert "| accuracy 100 % |" in capsys.readouterr().out


MOODS = ("valence", "arousal", "dominance")
# The columns of the labels, and what is told of them; None: they are the model's outputs, by name or by place alone.
COLUMNS = {
    "as the model has them": ("valence,arousal,dominance", None),
    "of names of their own": ("x,y,z", None),
    "in another order": ("dominance,valence,arousal", "number 1 is not dominance: give .*=valence,arousal,dominance"),
    "too few": ("valence,arousal", "num_classes is 3, but the data have 2 labels of each text"),
    "too many": (",".join((*MOODS, "x")), "num_classes is 3, but the data have 4 labels of each text: give as many"),
    "one for all": ("valence", "num_classes is 3, but the data have 1 labels of each text"),
}


@pytest.mark.representative("too few")
@pytest.mark.parametrize("columns, told", COLUMNS.values(), ids=COLUMNS)
def test_numbers_are_those_of_the_outputs_of_their_names(tmp_path, columns, told):
    """Of an import, and of a run that it made."""
    folder = named(checkpoint(tmp_path / "a", head="regression", num_classes=3), by_number(*MOODS))
    file = tmp_path / "a.jsonl"
    rows = [dict.fromkeys((*MOODS, *"xyz"), float(i)) | {"text": prose(i, 6)} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def tried(label_column: str, workdir: str):
        return imported(
            folder, tmp_path / workdir, options(str(file), label_column=label_column), "sequence_regression"
        )

    run = tried(",".join(MOODS), "b")
    again = options(str(file), label_column=columns)
    if told is None:
        assert tried(columns, "c").is_dir() and len(measured_on(run, again).classes) == 3
        return
    with pytest.raises(QtxError, match=told):
        tried(columns, "c")
    with pytest.raises(QtxError, match=told):
        build(read(load_run_config(run, ())).model, measured_on(run, again))
