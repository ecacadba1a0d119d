"""What is read of the folders of sentence-transformers."""

from __future__ import annotations

import json

import pytest

from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.interop.sentence import Modules, read_modules

LEGACY = "sentence_transformers.models."
TODAY = "sentence_transformers.sentence_transformer.modules."
FLAGS = {f"pooling_mode_{name}": False for name in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}


def write(folder, pooling, normalize=True, spelling=LEGACY):
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": spelling + kind}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize("spelling", [LEGACY, TODAY])
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"word_embedding_dimension": 8, **FLAGS, "pooling_mode_mean_tokens": True}, "mean"),
        ({"word_embedding_dimension": 8, **FLAGS, "pooling_mode_cls_token": True}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": "mean", "include_prompt": True}, "mean"),
        ({"embedding_dimension": 8, "pooling_mode": "cls"}, "cls"),
    ],
)
def test_both_spellings_are_read(tmp_path, pooling, expected, spelling):
    write(tmp_path, pooling, normalize=expected == "cls", spelling=spelling)
    assert read_modules(tmp_path) == Modules(expected, expected == "cls")


WRONG = {
    "two poolings": ({**FLAGS, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, r"\['cls', 'max'\]"),
    "the largest": ({"pooling_mode": "max"}, "pooling mode is max; qtx supports mean and cls"),
    "a list": ({"pooling_mode": ["mean", "cls"]}, r"pooling mode is \['mean', 'cls'\]"),
    "a number": ({"pooling_mode": 1}, "pooling mode is 1"),
    "without prompts": ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt is false"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_pooling_that_qtx_has_not_is_refused_by_its_name(tmp_path, case):
    pooling, message = WRONG[case]
    write(tmp_path, pooling)
    with pytest.raises(QtxError, match=message):
        read_modules(tmp_path)


BROKEN = {
    "no list": ("{}", "has the modules : expected"),
    "numbers": ("[1]", "not a list of modules with type and path"),
    "not JSON": ("[", "not JSON"),
    "outside": ('[{"type": "a", "path": "../b"}]', "names '../b', which is outside of it"),
    "another module": (
        '[{"type": "sentence_transformers.models.Transformer", "path": ""},'
        ' {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},'
        ' {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]',
        "has the modules .*Dense: expected those of sentence-transformers",
    ),
    "somebody's": (
        '[{"type": "mine.Transformer", "path": ""}, {"type": "mine.Pooling", "path": "1_Pooling"}]',
        "has the modules mine.Transformer, mine.Pooling",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_list_gets_one_line(tmp_path, case):
    content, message = BROKEN[case]
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(QtxError, match=message) as error:
        read_modules(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_the_list_gets_one_line(tmp_path):
    with pytest.raises(QtxError, match="there is no file .*modules.json, expected the modules"):
        read_modules(tmp_path)


@pytest.mark.slow
def test_a_published_model_goes_through_bit_for_bit(tmp_path, whole_patient):
    from safetensors.numpy import load_file

    assert read_modules(whole_patient) == Modules("mean", True)
    config, params = load(whole_patient)
    assert (config.head, config.num_layers, config.width) == ("none", 6, 384)
    save(tmp_path, config, params, original=whole_patient)
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole_patient, tmp_path))
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert found[name].dtype == x.dtype and found[name].tobytes() == x.tobytes(), name
    files = [path.relative_to(whole_patient) for path in whole_patient.rglob("*") if path.is_file()]
    assert len(files) == 9
    for file in files:
        original, written = ((folder / file).read_bytes() for folder in (whole_patient, tmp_path))
        if file.name == "config.json":
            original, written = json.loads(original), json.loads(written)
        assert file.suffix == ".safetensors" or written == original, file
