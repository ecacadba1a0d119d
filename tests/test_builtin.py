"""The checkpoints that come with the package: whole, consistent, and what their script makes of the original."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.cut_patient import cut, kept_pieces, main
from qtx.builtin import builtin_checkpoint
from qtx.data import load_tokenizer
from qtx.data.sources.stdlib import stdlib_documents
from qtx.foundation.errors import QtxError

PATIENT = builtin_checkpoint("minilm-2l")


def vocabulary(folder: Path) -> list[str]:
    return (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(QtxError, match="unknown built-in checkpoint 'minilm': did you mean 'minilm-2l'?"):
        builtin_checkpoint("minilm")


def test_it_fits_in_every_clone():
    assert sum(file.stat().st_size for file in PATIENT.rglob("*") if file.is_file()) <= 9e6


def test_its_files_agree():
    pieces = vocabulary(PATIENT)
    tokenizer = load_tokenizer(PATIENT / "tokenizer.json")
    assert tokenizer.tokens(range(tokenizer.vocab_size)) == pieces
    assert [pieces[i] for i in (tokenizer.start, tokenizer.end, tokenizer.mask)] == ["[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.backend.encode("a", add_special_tokens=True).tokens[:3] == ["[CLS]", "a", "[SEP]"]
    config = json.loads((PATIENT / "config.json").read_text())
    embeddings = load_file(PATIENT / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert embeddings.shape == (config["vocab_size"], config["hidden_size"]) == (len(pieces), 384)


def test_english_has_no_unknown_piece():
    tokenizer = load_tokenizer(PATIENT)
    texts = [(PATIENT / "LICENSE").read_text(), "“Dæmon’s naïve façade” — £5… zzyzx"]
    assert not any(tokenizer.is_special[ids].any() for ids in tokenizer.encode(texts))


@pytest.mark.slow
def test_next_to_nothing_of_the_builtin_corpus_is_unknown():
    tokenizer = load_tokenizer(PATIENT)
    ids = np.concatenate(tokenizer.encode([document.text for document in stdlib_documents()]))
    assert tokenizer.is_special[ids].mean() < 1e-4


def test_its_weights_are_the_original_s(whole_patient):
    rows = {piece: row for row, piece in enumerate(vocabulary(whole_patient))}
    original, ours = (load_file(folder / "model.safetensors") for folder in (whole_patient, PATIENT))
    embedding = "embeddings.word_embeddings.weight"
    original[embedding] = np.stack([original[embedding][rows[piece]] for piece in vocabulary(PATIENT)])
    layers = {name: name.split(".")[2] for name in original if name.startswith("encoder.layer.")}
    assert original.keys() - ours.keys() == {name for name, layer in layers.items() if layer not in ("0", "1")}
    for name, x in ours.items():
        assert x.dtype == (np.int64 if name == "embeddings.position_ids" else np.float16)
        # Half of float16's last bit, and half of the smallest value that it has.
        np.testing.assert_allclose(x.astype(np.float32), original[name], rtol=2**-11, atol=2**-25)


def test_cutting_again_gives_the_same_bytes(whole_patient):
    files = cut(whole_patient, vocabulary(PATIENT))
    assert {name for name, content in files.items() if (PATIENT / name).read_bytes() != content} == set()
    added = {"LICENSE", "README.md"}
    assert {str(file.relative_to(PATIENT)) for file in PATIENT.rglob("*") if file.is_file()} == files.keys() | added


@pytest.mark.slow
def test_its_pieces_are_the_frequent_ones(whole_patient):
    """Other versions of Python have other texts, which differ little."""
    kept, again = set(vocabulary(PATIENT)), set(kept_pieces(whole_patient))
    assert len(kept & again) > 0.95 * len(kept)


def test_no_original_is_told_in_a_line(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "cut")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
