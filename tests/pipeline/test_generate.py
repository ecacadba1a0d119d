"""A text that goes on from cached keys and values is the text that the model reads as a whole."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from rich.control import strip_control_codes

import qtx
from qtx import interop
from qtx.analysis.capture import FloatingPoint
from qtx.attention import VARIANTS, attention_variant
from qtx.attention.past import CACHE
from qtx.cli.main import main
from qtx.data.vocabularies import train_bpe
from qtx.foundation.errors import QtxError
from qtx.interop.ends import ends_of
from qtx.masks import EVERYWHERE
from qtx.models import Opt, OptConfig
from qtx.models.rotary import frequencies
from qtx.pipeline.generate import continued
from qtx.quantization import QuantizationConfig, calibrate

BUILTIN = "builtin:minilm-2l"
NANO = str(Path(__file__).parents[1] / "nano_config.py")
LENGTH, WORDS = 12, 23
SMALL = {"num_layers": 3, "width": 16, "num_heads": 2, "mlp_width": 32, "init_std": 0.8, "max_length": LENGTH}
CONFIG = OptConfig(**SMALL, vocab_size=WORDS)
WORDED = dataclasses.replace(CONFIG, vocab_size=280, max_length=40)


@dataclasses.dataclass(frozen=True)
class RotaryConfig(OptConfig):
    """Rotary positions beside the learned ones, and a window of its own for each layer."""

    @property
    def per_layer(self):
        return {
            "frequencies": np.stack([frequencies(8, base) for base in (10.0, 100.0, 1000.0)]),
            "window": np.array([EVERYWHERE, 3, 2], np.int32),
        }


CONFIGS = {
    **{name: dataclasses.replace(CONFIG, attention=variant.trained_at(LENGTH)) for name, variant in VARIANTS.items()},
    "GPT-2": dataclasses.replace(CONFIG, activation="gelu_new"),
    "post-LN, projected": dataclasses.replace(CONFIG, pre_norm=False, embedding_width=4),
    "gated values": dataclasses.replace(CONFIG, attention=attention_variant("gated_headwise,gate_place=values")),
    "rotary, windows": RotaryConfig(**SMALL, vocab_size=WORDS),
    "rematerialized": dataclasses.replace(CONFIG, remat="full"),
    "by blocks": dataclasses.replace(CONFIG, attention_backend="blockwise"),
}


def made(config):
    module = Opt(config)
    return FloatingPoint(module, nn.unbox(jax.jit(module.init)(jax.random.key(1), config.example())["params"]))


def of_eight_bits(model, method="static"):
    options = QuantizationConfig(recipe="strict", method=method)
    batch = {"tokens": np.random.default_rng(0).integers(0, WORDS, (4, LENGTH))}
    recipe = options.make_recipe("w8a8", model.module.config)
    return calibrate(model.module, model.params, recipe, [batch], 1, options.make_method())


def likeliest(model, prompt, number, length=LENGTH):
    """The tokens after a prompt, of which each is computed by reading the whole text anew."""
    tokens, apply = list(prompt), jax.jit(lambda batch: model.apply(batch))
    for _ in range(number):
        text = np.zeros((1, length), np.int32)
        text[0, : len(tokens)] = tokens
        tokens.append(int(np.argmax(apply({"tokens": text})[0, len(tokens) - 1])))
    return tokens[len(prompt) :]


@pytest.mark.representative("softmax", "rotary, windows")
@pytest.mark.parametrize("name", CONFIGS)
def test_cached_tokens_are_those_of_the_whole_text(name):
    model = made(CONFIGS[name])
    assert continued(model, [3, 5, 7], LENGTH - 3) == likeliest(model, [3, 5, 7], LENGTH - 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["static", "per_token"])
def test_quantized_models_go_on_too(method):
    model = of_eight_bits(made(CONFIG), method)
    assert continued(model, [3, 5, 7], 6) == likeliest(model, [3, 5, 7], 6)


@pytest.mark.representative("rotary, windows")
@pytest.mark.parametrize("name", ["clipped_softmax_visible", "rotary, windows"])
def test_a_text_in_pieces_is_the_whole_text(name):
    """Several texts, in pieces of several lengths: the first piece makes the cache, with no room, which is added."""
    model, tokens = made(CONFIGS[name]), np.random.default_rng(2).integers(0, WORDS, (2, LENGTH))
    whole, past, cache, pieces = jax.jit(model.apply)({"tokens": tokens}), 0, {}, []
    for length in (4, 1, 5, 2):
        piece = {"tokens": tokens[:, past : past + length], **({"past": past} if past else {})}
        logits, found = jax.jit(functools.partial(model.apply, mutable=[CACHE]))(piece, cache)
        room = [(0, 0), (0, 0), (0, 0 if past else LENGTH - length), (0, 0), (0, 0)]
        cache, past = {CACHE: jax.tree.map(lambda x, room=room: np.pad(x, room), found[CACHE])}, past + length
        pieces.append(logits)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=2e-5 * np.abs(whole).max())


def test_a_model_that_is_made_or_run_has_no_cache():
    module = Opt(CONFIG)
    assert set(module.init(jax.random.key(0), CONFIG.example())) == {"params"}


def test_an_end_is_the_last_token():
    model = made(CONFIG)
    found = continued(model, [3, 5, 7], 8)
    end = found[3]
    assert continued(model, [3, 5, 7], 8, {end}) == found[: found.index(end) + 1]


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"config.json": {"eos_token_id": 5}}, (5,)),
        ({"config.json": {"eos_token_id": 5}, "generation_config.json": {"eos_token_id": [7, 8]}}, (7, 8)),
        ({"config.json": {"eos_token_id": 5}, "generation_config.json": {"do_sample": True}}, (5,)),
        ({"config.json": {"eos_token_id": None}}, ()),
        ({}, ()),
    ],
)
def test_ends_are_those_that_the_checkpoint_names(tmp_path, files, ends):
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    assert ends_of(tmp_path) == ends


TEXTS = [f"the quick brown fox number {i} jumps over the lazy dog and sleeps in the sun for a while" for i in range(60)]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A checkpoint of a small decoder with a tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("decoder"), train_bpe(TEXTS, 280)
    interop.save(folder, WORDED, made(WORDED).params, files=tokenizer.for_export())
    return folder


@pytest.fixture(scope="module")
def model(decoder):
    small = {"data.sequence_length": 16, "training.batch_size": 4, "training.eval_batches": 1, "mesh.data": 1}
    return qtx.load(decoder, TEXTS, options={**small, "quantization.calibration_batches": 1})


@pytest.mark.slow
def test_a_run_goes_on_with_a_text_in_floating_point_and_quantized(model, capsys):
    """The command says what the functions do, and both what a plain loop over the whole text does."""
    tokenizer, run, begin = model.run.assembled.data.tokenizer, model.run, "the quick"
    ids = [tokenizer.start, *tokenizer.encode([begin])[0]]
    quantized = model.quantize("w4a8")
    for arguments, one in (([], model), (["--scheme=w4a8"], quantized)):
        loaded = FloatingPoint(run.assembled.module, run.params) if one is model else quantized.quantized
        expected = tokenizer.decode([*ids, *likeliest(loaded, ids, 5, WORDED.max_length)])
        assert begin + one.generate(begin, tokens=5) == expected
        if arguments:
            assert main(["generate", str(run.workdir), "--prompt=x", *arguments]) == 2
            assert "has no ranges of w4a8: first qtx quantize" in capsys.readouterr().err
            assert main(["quantize", f"--workdir={run.workdir}", *arguments]) == 0
            capsys.readouterr()
        assert main(["generate", str(run.workdir), f"--prompt={begin}", "--tokens=5", *arguments]) == 0
        assert capsys.readouterr().out == strip_control_codes(expected) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "tokens", "told"),
    [
        ("the quick", 0, "tokens is 0: expected 1 or more"),
        (
            "the quick",
            39,
            "the prompt has 6 tokens and 39 are to follow, .* has 40 positions: ask for 34 tokens, or sh",
        ),
        ("the " * 40, 1, r"the prompt has \d+ tokens and 1 are to follow, .* 40 positions: shorten the prompt"),
    ],
)
def test_bad_input_is_one_line(model, prompt, tokens, told):
    with pytest.raises(QtxError, match=told):
        model.generate(prompt, tokens=tokens)


@pytest.mark.slow
def test_what_generates_no_text_says_so(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main(["train", f"--config={NANO}", f"--workdir={workdir}"]) == 0
    capsys.readouterr()
    for folder, arguments, told in (
        (workdir, ["--prompt=x"], "have no tokenizer"),
        (workdir, ["--prompt=x", "--tokens=some"], "--tokens=some: expected a whole number"),
        (BUILTIN, ["--prompt=x", f"--workdir={tmp_path}/bert"], "a BertConfig generates no text: expected a causal"),
        (workdir, [], "generate needs --prompt=TEXT"),
    ):
        assert main(["generate", str(folder), *arguments]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    assert not (tmp_path / "bert").exists()
