from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from qtx.data import VOCABULARIES, load_tokenizer
from qtx.data.sources.stdlib import stdlib_documents
from qtx.data.tokenization import BERT_SPECIALS, OPT_SPECIALS
from qtx.foundation.errors import QtxError
from tests.data.samples import save

VOCAB_SIZE = {"wordpiece": 700, "bpe": 700}
SPECIALS = {"wordpiece": BERT_SPECIALS, "bpe": OPT_SPECIALS}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in stdlib_documents() if document.name.startswith("topic")][:30]


@pytest.fixture(scope="module", params=sorted(VOCABULARIES))
def trained(request, texts):
    return request.param, VOCABULARIES[request.param](texts, VOCAB_SIZE[request.param])


def test_every_trainer_has_a_row():
    assert set(VOCAB_SIZE) == set(SPECIALS) == set(VOCABULARIES)


def test_trained_size_specials_and_roles(trained):
    name, tokenizer = trained
    assert tokenizer.vocab_size == VOCAB_SIZE[name]
    assert tokenizer.tokens(range(len(SPECIALS[name]))) == list(SPECIALS[name])
    assert tokenizer.is_special.sum() == len(SPECIALS[name])
    assert (
        tokenizer.tokens([tokenizer.start, tokenizer.end])
        == {
            "wordpiece": ["[CLS]", "[SEP]"],
            "bpe": ["</s>", "</s>"],
        }[name]
    )
    assert (tokenizer.mask is not None) == (name == "wordpiece")


def test_training_is_deterministic(trained, texts):
    name, tokenizer = trained
    assert VOCABULARIES[name](texts, VOCAB_SIZE[name]).backend.to_str() == tokenizer.backend.to_str()


def test_ids_are_below_the_vocabulary_and_frequent_words_whole(trained, texts):
    _, tokenizer = trained
    ids = np.concatenate(tokenizer.encode(texts))
    assert ids.dtype == np.int32 and ids.min() >= 0 and ids.max() < tokenizer.vocab_size
    assert len(tokenizer.encode(["the"])[0]) <= 2
    assert not tokenizer.is_special[ids].any()


def test_saved_tokenizer_is_the_same(trained, texts, tmp_path):
    _, tokenizer = trained
    save(tokenizer, tmp_path)
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert (loaded.start, loaded.end, loaded.mask) == (tokenizer.start, tokenizer.end, tokenizer.mask)
        np.testing.assert_array_equal(loaded.is_special, tokenizer.is_special)
        np.testing.assert_array_equal(loaded.encode(texts[:1])[0], tokenizer.encode(texts[:1])[0])


def test_exported_it_is_the_same_beside_any_model(trained, texts, tmp_path):
    _, tokenizer = trained
    for name, content in tokenizer.for_export().items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    loaded = load_tokenizer(tmp_path)
    assert loaded.template == tokenizer.template and loaded.roles == tokenizer.roles
    for text in (texts[0], "see [SEP] and </s> here"):
        np.testing.assert_array_equal(loaded.encode([text])[0], tokenizer.encode([text])[0])


def test_special_tokens_in_a_text_are_text(trained):
    _, tokenizer = trained
    for special in (*BERT_SPECIALS, *OPT_SPECIALS):
        ids = tokenizer.encode([f"see {special} here"])[0]
        assert not set(ids.tolist()) & {tokenizer.start, tokenizer.end, tokenizer.mask}


@settings(deadline=None)
@given(text=st.text(max_size=60))
def test_bpe_round_trip(text, trained_bpe):
    assert trained_bpe.decode(trained_bpe.encode([text])[0]) == text


@pytest.fixture(scope="module")
def trained_bpe(texts):
    return VOCABULARIES["bpe"](texts, 400)


def test_wordpiece_round_trip_of_lower_case_words(texts):
    tokenizer = VOCABULARIES["wordpiece"](texts, 700)
    text = "the assert statement raises an unquestionable exception"
    assert tokenizer.decode(tokenizer.encode([text.upper()])[0]) == text


@pytest.mark.slow
def test_wordpiece_learns_what_the_library_learns(texts):
    ours = {token for token in VOCABULARIES["wordpiece"](texts, 900).backend.get_vocab()}
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = list(BERT_SPECIALS)
    library.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=900, min_frequency=2, special_tokens=specials, show_progress=False)
    )
    # Ties may fall differently: the library breaks them by the order of a randomly seeded hash map.
    assert len(ours & set(library.get_vocab())) >= 0.97 * 900


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("wordpiece", 20, "too small for wordpiece.*need at least"),
        ("bpe", 259, "too small for bpe.*at least 260"),
        ("wordpiece", 10**6, "too large for wordpiece.*at most"),
        ("bpe", 10**6, "too large for bpe.*at most"),
    ],
)
def test_impossible_sizes(name, size, message, texts):
    with pytest.raises(QtxError, match=message):
        VOCABULARIES[name](texts[:3], size)


def test_the_sizes_in_the_errors_are_right(texts):
    for name in VOCABULARIES:
        for size in (1, 10**6):
            with pytest.raises(QtxError) as caught:
                VOCABULARIES[name](texts[:3], size)
            possible = int(str(caught.value).split("at least " if size == 1 else "at most ")[1].split(",")[0])
            assert VOCABULARIES[name](texts[:3], possible).vocab_size == possible


def test_cased_vocabulary_keeps_case(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nHello\nhello\n")
    assert load_tokenizer(tmp_path).encode(["Hello hello"])[0].tolist() == [5, 6]
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n")
    assert load_tokenizer(tmp_path).encode(["Hello hello"])[0].tolist() == [5, 5]


def tokenizer_json(vocabulary, **options):
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    return json.dumps({**json.loads(backend.to_str()), **options})


WORDS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}
# An array by id would be of gigabytes; the library itself takes as much to write one.
FAR_ID = tokenizer_json(WORDS).replace('"a": 3', '"a": 3, "b": 4000000000')
assert "4000000000" in FAR_ID
NO_UNKNOWN = tokenizer_json({"[CLS]": 1, "[SEP]": 2, "a": 3})


def test_truncation_and_padding_of_a_file_do_not_touch_documents(tmp_path):
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 4_000_000_000}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "[UNK]"}
    pieces = {**WORDS, "##a": 4}
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(pieces, truncation=truncation, padding=padding))
    assert load_tokenizer(tmp_path).encode(["aaaa"])[0].tolist() == [3, 4, 4, 4]


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ({}, "missing.json", "no tokenizer .*missing.json"),
        ({"readme": "x"}, ".", "has none of tokenizer.json, vocab.txt, vocab.json: save tokenizer.json there with"),
        ({"tokenizer.json": "{"}, ".", "is not a tokenizer .not JSON"),
        ({"tokenizer.json": FAR_ID}, ".", "ids beyond"),
        ({"tokenizer.json": NO_UNKNOWN}, ".", "Missing \\[UNK\\]"),
        ({"vocab.txt": "a\nb\n"}, ".", "not a BERT vocabulary"),
        ({"vocab.txt": "[UNK]\na\na\n"}, ".", "not a BERT vocabulary"),
        ({"vocab.txt": "[UNK]\na\n"}, ".", r"no cls_token.*expected \[CLS\]"),
        ({"vocab.json": json.dumps({"a": 0})}, ".", "merges.txt"),
        ({"vocab.json": json.dumps({"a": 0}), "merges.txt": "a b c\n"}, ".", "is not a tokenizer"),
        ({"vocab.json": "[1]", "merges.txt": ""}, "vocab.json", "not a JSON object"),
    ],
)
def test_unreadable_tokenizers(files, path, message, tmp_path):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(QtxError, match=message):
        load_tokenizer(tmp_path / path)


def test_bert_base_uncased(shared_data):
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "bert-base-uncased" / "vocab.txt")
    assert (tokenizer.vocab_size, tokenizer.start, tokenizer.end, tokenizer.mask) == (30522, 101, 102, 103)
    text = "Hello, world! Quantization is unaffable."
    ids = tokenizer.encode([text])[0]
    assert ids[:5].tolist() == [7592, 1010, 2088, 999, 24110]
    assert tokenizer.decode(ids) == "hello, world! quantization is unaffable."


@pytest.mark.slow
def test_opt(shared_data, tmp_path):
    tokenizer = load_tokenizer(shared_data / "tokenizers" / "opt")
    assert (tokenizer.vocab_size, tokenizer.start, tokenizer.end, tokenizer.mask) == (50265, 2, 2, 50264)
    text = "Hello world\n\n  naïve <s> ünïcode 🙂"
    ids = tokenizer.encode([text])[0]
    assert ids[:2].tolist() == [31414, 232]
    assert tokenizer.decode(ids) == text
    save(tokenizer, tmp_path)
    np.testing.assert_array_equal(load_tokenizer(tmp_path).encode([text])[0], ids)
