"""What is read of the folders of sentence-transformers."""

from __future__ import annotations

import dataclasses
import json

import flax.linen as nn
import jax
import pytest

from qtx.families import build
from qtx.foundation.errors import QtxError
from qtx.interop import load, save
from qtx.interop.sentence import Modules, read_modules
from qtx.models import BertConfig, VitConfig
from qtx.pipeline.embeddings import told_of_embeddings

LEGACY = "sentence_transformers.models."
TODAY = "sentence_transformers.sentence_transformer.modules."
SMALL = BertConfig(num_layers=1, width=8, num_heads=2, mlp_width=8, vocab_size=9, max_length=4, head="none")
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
        ({"embedding_dimension": 8, "pooling_mode": "cls", "include_prompt": False}, "cls"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode": ["mean", "max"]}, "mean+max"),
        ({**FLAGS, "pooling_mode_max_tokens": True}, "max"),
        ({**FLAGS, "pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
        ({**FLAGS, "pooling_mode_lasttoken": True}, "lasttoken"),
        ({**FLAGS, "pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ({**FLAGS, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "cls+max"),
        ({"word_embedding_dimension": 8}, "mean"),
    ],
)
def test_both_spellings_are_read(tmp_path, pooling, expected, spelling):
    write(tmp_path, pooling, normalize=expected == "cls", spelling=spelling)
    include_prompt = pooling.get("include_prompt", True)
    assert read_modules(tmp_path) == Modules(expected, expected == "cls", include_prompt=include_prompt)


WRONG = {
    "unknown": ({"pooling_mode": "median"}, r"pooling mode is \['median'\]; qtx has cls, max, mean"),
    "one unknown": ({"pooling_mode": ["mean", "median"]}, r"pooling mode is \['mean', 'median'\]"),
    "none": (FLAGS, r"pooling mode is \[\]"),
    "a number": ({"pooling_mode": 1}, "pooling mode is 1"),
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
    "no pooling": (
        '[{"type": "sentence_transformers.models.Transformer", "path": ""},'
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


def following(folder, further, **options):
    """Lets modules follow the pooling; `options` are those of the dense layers."""
    write(folder, {"pooling_mode": "cls"}, normalize=False)
    modules = json.loads((folder / "modules.json").read_text())
    modules += [{"path": f"{i}_{kind}", "type": LEGACY + kind} for i, kind in enumerate(further, 2)]
    (folder / "modules.json").write_text(json.dumps(modules))
    for place in (folder / module["path"] for module in modules if module["type"].endswith("Dense")):
        place.mkdir()
        (place / "config.json").write_text(json.dumps({"in_features": 8, "out_features": 3, **options}))
        (place / "model.safetensors").write_bytes(b"")


DENSE = "dense,outputs=3"
FOLLOWING = [
    (["Dense", "Normalize"], {}, Modules("cls", True, modules=DENSE)),
    (["Normalize", "Dense"], {}, Modules("cls", False, modules=f"normalize + {DENSE}")),
    (["Dense"], {"bias": False}, Modules("cls", False, modules=f"{DENSE},bias=False")),
    (
        ["Dense"],
        {"activation_function": "torch.nn.modules.linear.Identity", "use_residual": False},
        Modules("cls", False, modules=f"{DENSE},activation=Identity"),
    ),
    (["Dense", "Dropout", "Dense"], {}, Modules("cls", False, modules=f"{DENSE} + {DENSE}")),
    (["Dense", "LayerNorm", "Dense"], {}, Modules("cls", False, ("LayerNorm", "Dense"), DENSE)),
    (["Dense"], {"use_residual": True}, Modules("cls", False, ("Dense (with a residual)",))),
    (["Dense"], {"activation_function": "mine.Tanh"}, Modules("cls", False, ("Dense (with mine.Tanh)",))),
    (["Dense"], {"module_input_name": "token_embeddings"}, Modules("cls", False, ("Dense (of token_embeddings)",))),
]


@pytest.mark.parametrize(("further", "options", "expected"), FOLLOWING)
def test_what_follows_the_pooling(tmp_path, further, options, expected):
    following(tmp_path, further, **options)
    found = read_modules(tmp_path)
    assert found._replace(dense=()) == expected
    assert len(found.dense) == expected.modules.count("dense")
    if found.dense:
        (found.dense[0] / "model.safetensors").unlink()
        assert read_modules(tmp_path).left_out[0] == "Dense (without model.safetensors)"


@pytest.mark.parametrize(
    ("options", "says"), [({"out_features": "3"}, "out_features is '3'"), ({"bias": 1}, "bias is 1"), (None, "no file")]
)
def test_a_broken_dense_layer_gets_one_line(tmp_path, options, says):
    following(tmp_path, ["Dense"], **(options or {}))
    if options is None:
        (tmp_path / "2_Dense/config.json").unlink()
    with pytest.raises(QtxError, match=says):
        read_modules(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("further", "normalize", "left_out"),
    [(["Dropout", "Normalize"], True, ()), (["Normalize", "LayerNorm"], True, ("LayerNorm",))],
)
def test_what_follows_is_left_out_from_the_first_that_qtx_does_not_compute(tmp_path, further, normalize, left_out):
    following(tmp_path, further)
    assert read_modules(tmp_path) == Modules("cls", normalize, left_out)
    # The model is read all the same, and the summary of its run says so.
    config = BertConfig(num_layers=1, width=8, num_heads=2, mlp_width=8, vocab_size=9, max_length=4, head="none")
    save(tmp_path / "model", config, build(config).init(jax.random.key(0), config.example())["params"])
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / "model" / name).read_bytes())
    found, params = load(tmp_path)
    assert (found.pooling, found.normalize) == ("cls", normalize)
    told = told_of_embeddings(found, tmp_path)["embedding"]
    assert told.startswith("cls") and all(kind in told.partition("before")[2] for kind in left_out)
    save(tmp_path / "again", found, params, original=tmp_path)
    assert (tmp_path / "again/modules.json").read_bytes() == (tmp_path / "modules.json").read_bytes()


def test_somebody_s_modules_are_told_and_not_guessed(tmp_path):
    write(tmp_path, {"pooling_mode": "cls"}, spelling="mine.")
    assert "not by the modules of the checkpoint" in told_of_embeddings(BertConfig(head="none"), tmp_path)["embedding"]
    assert not told_of_embeddings(BertConfig(), tmp_path)


@pytest.mark.slow
def test_a_vision_transformer_beside_modules_is_pooled_as_its_family_is(tmp_path):
    small = dict(num_layers=1, width=8, num_heads=2, mlp_width=16, layer_norm_epsilon=1e-12)
    config = VitConfig(**small, image_size=4, patch_size=2, channels=3, head="none")
    save(tmp_path, config, build(config).init(jax.random.key(0), config.example())["params"])
    write(tmp_path, {"pooling_mode_mean_tokens": True})
    assert load(tmp_path)[0].pooling == "cls"


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


CHOSEN = [
    {"pooling": "cls"},
    {"pooling": "cls+max", "normalize": True},
    {"normalize": True},
    {"include_prompt": False},
]


@pytest.mark.parametrize("chosen", CHOSEN)
@pytest.mark.parametrize("names_modules", [True, False, None])
def test_what_pools_an_encoder_by_choice_is_written(tmp_path, chosen, names_modules):
    """Whether its checkpoint names another pooling, or none, or there is no checkpoint."""
    config = dataclasses.replace(SMALL, **chosen)
    params = nn.unbox(jax.jit(build(config).init)(jax.random.key(0), config.example())["params"])
    original, again = (tmp_path / name for name in ("original", "again"))
    save(original, SMALL, params)
    if names_modules:
        write(original, {"pooling_mode": "lasttoken"}, normalize=not config.normalize)
    save(again, config, params, original=None if names_modules is None else original)
    assert load(again)[0] == config


def test_modules_that_loaders_take_anyway_are_not_written(tmp_path):
    params = nn.unbox(jax.jit(build(SMALL).init)(jax.random.key(0), SMALL.example())["params"])
    save(tmp_path, SMALL, params)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
