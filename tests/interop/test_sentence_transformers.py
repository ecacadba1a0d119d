"""The vectors of sentence-transformers' models and of qtx's, through a folder on disk."""

from __future__ import annotations

import json
import os

import jax
import numpy as np
import pytest

import qtx
from qtx.data.objectives.distillation import Distillation
from qtx.data.prompts import read_prompts
from qtx.data.sources.text_labels import TextLabels
from qtx.families import build
from qtx.interop import load, save
from qtx.interop.sentence import Modules, read_modules
from qtx.models.pooling import POOLINGS, embedding_of
from qtx.pipeline.importing import Found, config_of_checkpoint

try:
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs torch and sentence-transformers: {error}", allow_module_level=True)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "a", "dog", "."]
TEXTS = ["The cat sat on the mat.", "A dog.", "a cat on a dog on a mat"]


def embedded(folder, texts):
    """The vectors `[B, width]` that qtx makes of a folder."""
    config, params = load(folder)
    batch = transformers.AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
    tokens, mask = batch["input_ids"].astype(np.int32), batch["attention_mask"].astype(bool)
    with jax.default_matmul_precision("highest"):
        output = build(config).apply({"params": params}, {"tokens": tokens, "mask": mask})
    return np.asarray(embedding_of(output, mask, {}, config))


def made(folder, modules):
    """A small model with random weights."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    (folder / "encoder").mkdir()
    (folder / "encoder/vocab.txt").write_text("\n".join(WORDS))
    transformers.BertModel(config).save_pretrained(folder / "encoder")
    transformers.BertTokenizerFast(str(folder / "encoder/vocab.txt")).save_pretrained(folder / "encoder")
    parts = [Transformer(str(folder / "encoder")), Pooling(16, modules.pooling)]
    parts += FURTHER.get(modules.modules, lambda: [])() + ([Normalize()] if modules.normalize else [])
    model = SentenceTransformer(modules=parts, device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def check(folder, texts, modules, again):
    assert read_modules(folder)._replace(dense=()) == modules
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    found = embedded(folder, texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    save(again, *load(folder), original=folder)
    np.testing.assert_array_equal(SentenceTransformer(str(again), device="cpu").encode(texts), expected)


FURTHER = {
    "dense,outputs=5": lambda: [Dense(16, 5)],
    "dense,outputs=24,activation=ReLU,bias=False": lambda: [Dense(16, 24, False, torch.nn.ReLU())],
    "normalize + dense,outputs=7,activation=GELU + dense,outputs=3,activation=Identity": lambda: [
        *(Normalize(), Dense(16, 7, activation_function=torch.nn.GELU()), Dense(7, 3, activation_function=None))
    ],
    "dense,outputs=4,activation=SiLU + normalize + dense,outputs=9,activation=Sigmoid": lambda: [
        *(Dense(16, 4, activation_function=torch.nn.SiLU()), Normalize()),
        Dense(4, 9, activation_function=torch.nn.Sigmoid()),
    ],
}
CASES = [Modules(name, name == "mean") for name in POOLINGS]
CASES += [Modules("mean", number % 2 == 0, modules=text) for number, text in enumerate(FURTHER)]


@pytest.mark.parametrize("modules", CASES)
def test_vectors_equal_those_of_the_library(tmp_path, modules):
    check(made(tmp_path, modules), TEXTS, modules, tmp_path / "again")


def test_vectors_of_a_published_model(tmp_path, whole_patient):
    check(whole_patient, [*TEXTS, "Quantization is a map to a finite set."], Modules("mean", True), tmp_path)


PROMPTS = {"query": "the cat: ", "other": "a dog on", "none": ""}


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("default", [None, "query"])
def test_prompts_are_put_before_texts_as_the_library_does(tmp_path, default, include_prompt):
    folder = made(tmp_path, Modules("mean", False))
    model = SentenceTransformer(str(folder), device="cpu", prompts=PROMPTS, default_prompt_name=default)
    model.set_pooling_include_prompt(include_prompt)
    model.save(str(folder))
    assert read_prompts(folder) == (model.prompts, default)
    config, params = load(folder)
    assert config.include_prompt is include_prompt
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text, "label": "a"}) for text in TEXTS))
    file = str(tmp_path / "texts.jsonl")
    named = config_of_checkpoint(Found(folder, str(folder))).data.prompt
    assert named == default
    for name in (named, "other", "none"):
        options = {"files": (file,), "validation_files": (file,), "tokenizer": str(folder), "prompt": name}
        data = TextLabels(**options, sequence_length=14).load(Distillation())
        examples = [data.example(block, np.random.default_rng(0)) for block in data.training]
        batch = {key: np.stack([example[key] for example in examples]) for key in examples[0]}
        prompt = None if name is None else PROMPTS[name]
        expected = model.preprocess(TEXTS, prompt=prompt)
        length = expected["input_ids"].shape[1]
        np.testing.assert_array_equal(batch["tokens"][:, :length], expected["input_ids"])
        np.testing.assert_array_equal(batch["mask"][:, :length], expected["attention_mask"])
        assert ("prompt" in batch) == bool(prompt)
        if prompt:
            assert set(batch["prompt"]) == {expected["prompt_length"]}
        with jax.default_matmul_precision("highest"):
            output = build(config).apply({"params": params}, batch)
        found = embedding_of(output, batch["mask"], batch, config)
        vectors = model.encode(TEXTS, prompt_name=name)
        np.testing.assert_allclose(found, vectors, rtol=0, atol=1e-5 * np.abs(vectors).max())


@pytest.mark.parametrize(
    "modules, include_prompt", [(Modules("mean", True), True), (Modules("cls", False, modules=[*FURTHER][2]), False)]
)
def test_encoding_is_that_of_the_library(tmp_path, modules, include_prompt):
    """Texts that are too long, and empty ones, too."""
    folder, texts = made(tmp_path, modules), [*TEXTS, "", "the cat sat on a mat " * 5, *(["a dog"] * 40)]
    model = SentenceTransformer(str(folder), device="cpu", prompts=PROMPTS, default_prompt_name="query")
    model.set_pooling_include_prompt(include_prompt)
    model.max_seq_length = 20
    model.save(str(folder))
    (tmp_path / "texts.txt").write_text("\n\n".join(["the cat sat on the mat . " * 90, "a dog . " * 90]))
    source = {"source": "text_files", "files": (str(tmp_path / "texts.txt"),), "document_separator": r"\n\n"}
    found = qtx.load(folder, options={f"data.{name}": value for name, value in source.items()})
    for name in (None, *PROMPTS):
        expected = model.encode(texts, prompt_name=name)
        np.testing.assert_allclose(
            qtx.encode(found, texts, name), expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=f"{name}"
        )


def test_vectors_of_a_published_mpnet(tmp_path, mpnet):
    texts = [*TEXTS, "Quantization is a map to a finite set. " * 20, "word " * 380, "Ein Satz, den kaum jemand liest."]
    config, params = load(mpnet)
    expected = SentenceTransformer(str(mpnet), device="cpu").encode(texts, batch_size=4)
    batch = transformers.AutoTokenizer.from_pretrained(mpnet)(texts, padding=True, truncation=True, return_tensors="np")
    assert batch["input_ids"].shape == (6, 382)
    tokens, mask = batch["input_ids"].astype(np.int32), batch["attention_mask"].astype(bool)
    with jax.default_matmul_precision("highest"):
        output = build(config).apply({"params": params}, {"tokens": tokens, "mask": mask})
    found = embedding_of(output, mask, {}, config)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
