"""What the files beside a tokenizer say of it: ids written down by hand, of vocabularies in which one can count."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from qtx.data import DataConfig, load, load_tokenizer
from qtx.data.masking import Masking, mask_tokens
from qtx.data.sources import TextFiles, TextLabels
from qtx.data.templates import Template
from qtx.data.tokenizer_settings import longest_text
from qtx.foundation.errors import QtxError
from tests.data.samples import save

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "für", "fur", "Für", "日", "本", "日本", "a", "b")
PAD, UNK, CLS, SEP, MASK, FUER, FUR, BIG_FUER, SUN, BOOK, JAPAN, A, B = range(13)
ANGLED = ("<s>", "<pad>", "</s>", "<unk>")
BYTES = {token: i for i, token in enumerate((*ANGLED, "a", "b", "Ġ", "Ġa", "ab"))}


def files(folder, **contents):
    """Writes files, `name_json` or `name_txt`."""
    for name, content in contents.items():
        name, _, suffix = name.rpartition("_")
        (folder / f"{name}.{suffix}").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def vocab_txt(folder, **contents):
    return files(folder, vocab_txt="\n".join(PIECES), **contents)


def byte_pairs(folder, **contents):
    return files(folder, vocab_json=BYTES, merges_txt="#version: 0.2\nĠ a\na b\n", **contents)


def word_piece(folder, processor=None, **contents):
    backend = Tokenizer(models.WordPiece({token: i for i, token in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    if processor is not None:
        backend.post_processor = processor
    return files(folder, tokenizer_json=backend.to_str(), **contents)


def unigram(folder, **contents):
    pieces = [*((token, 0.0) for token in ANGLED), ("▁", -2.0), ("▁a", -1.0), ("b", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return files(folder, tokenizer_json=backend.to_str(), **contents)


BERT_PROCESSOR = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
ROBERTA_PROCESSOR = processors.RobertaProcessing(("b", B), ("a", A))
SPECIAL = {"cls_token": "<s>", "sep_token": {"content": "</s>", "lstrip": False}, "pad_token": "<pad>"}
FRAMES = {
    # maker, its options, ids around "a", ids around "a" and "b", and the token types of those
    "BERT's vocabulary": (vocab_txt, {}, [CLS, A, SEP], [CLS, A, SEP, B, SEP], [0, 0, 0, 1, 1]),
    "its post-processor": (
        word_piece,
        dict(processor=BERT_PROCESSOR),
        [CLS, A, SEP],
        [CLS, A, SEP, B, SEP],
        [0, 0, 0, 1, 1],
    ),
    "another's post-processor": (
        word_piece,
        dict(processor=ROBERTA_PROCESSOR, tokenizer_config_json={"tokenizer_class": "BertTokenizer"}),
        [A, A, B],
        [A, A, B, B, B, B],
        [0] * 6,
    ),
    "nothing around it": (word_piece, dict(processor=processors.ByteLevel()), [A], [A, B], [0, 1]),
    "the model's class": (
        word_piece,
        dict(config_json={"model_type": "bert"}),
        [CLS, A, SEP],
        [CLS, A, SEP, B, SEP],
        [0, 0, 0, 1, 1],
    ),
    "a class of no frame": (
        word_piece,
        dict(
            config_json={"model_type": "bert"},
            tokenizer_config_json={"tokenizer_class": "TokenizersBackend", "cls_token": "[CLS]"},
        ),
        [A],
        [A, B],
        [0, 1],
    ),
    "named tokens": (unigram, dict(special_tokens_map_json=SPECIAL), [0, 5, 2], [0, 5, 2, 2, 4, 6, 2], [0] * 7),
    "XLM-R's class": (
        unigram,
        dict(tokenizer_config_json={"tokenizer_class": "XLMRobertaTokenizerFast"}),
        [0, 5, 2],
        [0, 5, 2, 2, 4, 6, 2],
        [0] * 7,
    ),
    "RoBERTa's model": (
        byte_pairs,
        dict(config_json={"model_type": "roberta"}),
        [0, 4, 2],
        [0, 4, 2, 2, 5, 2],
        [0] * 6,
    ),
    "Llama's model": (byte_pairs, dict(config_json={"model_type": "llama"}), [0, 4], [0, 4, 0, 5], [0, 0, 1, 1]),
    "OPT's model": (byte_pairs, dict(config_json={"model_type": "opt"}), [2, 4], [2, 4, 2, 5], [0, 0, 1, 1]),
    "OPT's settings": (
        byte_pairs,
        dict(
            config_json={"model_type": "opt"},
            tokenizer_config_json={
                "tokenizer_class": "GPT2Tokenizer",
                "bos_token": "</s>",
                "eos_token": "<s>",
                "add_bos_token": True,
                "add_eos_token": True,
            },
        ),
        [2, 4, 0],
        [2, 4, 0, 2, 5, 0],
        [0, 0, 0, 1, 1, 1],
    ),
    "told not to begin": (
        byte_pairs,
        dict(config_json={"model_type": "opt"}, tokenizer_config_json={"add_bos_token": False}),
        [4],
        [4, 5],
        [0, 1],
    ),
}


@pytest.mark.parametrize("name", FRAMES)
def test_what_stands_around_texts(name, tmp_path):
    make, options, single, pair, types = FRAMES[name]
    tokenizer = load_tokenizer(make(tmp_path, **options))
    for loaded in (tokenizer, kept(tokenizer, tmp_path / "run")):
        a, b = loaded.encode(["a", "b"])
        assert loaded.template.around([a], 64)[0].tolist() == single
        ids, kinds = loaded.template.around([a, b], 64)
        assert (ids.tolist(), kinds.tolist()) == (pair, types)
        assert loaded.digest == tokenizer.digest


def kept(tokenizer, folder):
    """The tokenizer that the folder of a run has."""
    folder.mkdir()
    save(tokenizer, folder)
    return load_tokenizer(folder)


def test_a_run_keeps_tokenizer_json_alone_where_that_says_all(tmp_path):
    named = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = load_tokenizer(
        word_piece(tmp_path, BERT_PROCESSOR, tokenizer_config_json=named | {"do_lower_case": True})
    )
    assert list(tokenizer.files) == ["tokenizer.json"]
    other = load_tokenizer(files(tmp_path, tokenizer_config_json=named | {"pad_token": "a"}))
    assert (tokenizer.pad, other.pad) == (PAD, A) and kept(other, tmp_path / "run").pad == A


CASES = {
    # settings beside vocab.txt, "Für 日本" in ids
    "nothing said": (None, [BIG_FUER, SUN, BOOK]),
    "settings that say nothing of it": ({}, [FUR, SUN, BOOK]),
    "cased": ({"do_lower_case": False}, [BIG_FUER, SUN, BOOK]),
    "cased without accents": ({"do_lower_case": False, "strip_accents": True}, [UNK, SUN, BOOK]),
    "accents kept": ({"do_lower_case": True, "strip_accents": False}, [FUER, SUN, BOOK]),
    "Chinese not cut": ({"tokenize_chinese_chars": False}, [FUR, JAPAN]),
}


@pytest.mark.parametrize("name", CASES)
def test_case_accents_and_chinese_of_a_vocabulary(name, tmp_path):
    options, ids = CASES[name]
    beside = {} if options is None else {"tokenizer_config_json": options}
    assert load_tokenizer(vocab_txt(tmp_path, **beside)).encode(["Für 日本"])[0].tolist() == ids
    if options:  # what a class is told precedes its tokenizer.json
        word_piece(tmp_path, BERT_PROCESSOR, config_json={"model_type": "bert"})
        assert load_tokenizer(tmp_path).encode(["Für 日本"])[0].tolist() == ids


def test_spaces_before_words_of_bytes(tmp_path):
    assert load_tokenizer(byte_pairs(tmp_path)).encode(["a ab"])[0].tolist() == [4, 7, 5]
    files(tmp_path, tokenizer_config_json={"add_prefix_space": True, "tokenizer_class": "RobertaTokenizer"})
    assert load_tokenizer(tmp_path).encode(["a ab"])[0].tolist() == [7, 7, 5]


def test_tokens_are_matched_as_their_settings_say(tmp_path):
    e1 = {
        "content": "[E1]",
        "lstrip": False,
        "rstrip": True,
        "single_word": False,
        "normalized": False,
        "special": True,
    }
    single = {"content": "ba", "single_word": True, "normalized": True, "special": False}
    vocab_txt(
        tmp_path,
        tokenizer_config_json={"added_tokens_decoder": {"14": single, "13": e1}, "extra_special_tokens": ["[E2]"]},
    )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(["a[E1] b [SEP] BA bab [E2]"])[0].tolist() == [A, 13, B, SEP, 14, UNK, 15]
    assert tokenizer.is_special.tolist() == [True] * 5 + [False] * 8 + [True, False, True]
    assert kept(tokenizer, tmp_path / "run").encode(["a[E1] b"])[0].tolist() == [A, 13, B]


def test_tokens_of_older_files(tmp_path):
    vocab_txt(
        tmp_path,
        added_tokens_json={"<new>": 14, "[E1]": 13},
        special_tokens_map_json={"additional_special_tokens": ["[E1]"], "mask_token": {"content": "b", "lstrip": True}},
        tokenizer_config_json={"mask_token": "a"},
    )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(["a [E1]<NEW>"])[0].tolist() == [A, 13, 14]  # one that is not special is normalized
    assert tokenizer.is_special[[13, 14]].tolist() == [True, False]
    assert tokenizer.mask == B  # as transformers, which lets the older file precede
    files(tmp_path, tokenizer_config_json={"mask_token": "a", "added_tokens_decoder": {}})
    assert load_tokenizer(tmp_path).mask == A


def test_special_tokens_are_text_where_the_settings_say_so(tmp_path):
    tokenizer = load_tokenizer(vocab_txt(tmp_path, tokenizer_config_json={"split_special_tokens": True}))
    for loaded in (tokenizer, kept(tokenizer, tmp_path / "run")):
        assert loaded.encode(["[SEP]"])[0].tolist() == [UNK, UNK, UNK]


def test_what_sentence_transformers_makes_of_a_text(tmp_path):
    vocab_txt(tmp_path, tokenizer_config_json={"do_lower_case": False, "model_max_length": 512})
    assert longest_text(tmp_path) == (512, "tokenizer_config.json")
    files(tmp_path, sentence_bert_config_json={"max_seq_length": 100, "do_lower_case": True})
    assert longest_text(tmp_path) == (100, "sentence_bert_config.json")
    tokenizer = load_tokenizer(tmp_path)
    for loaded in (tokenizer, kept(tokenizer, tmp_path / "run")):
        assert loaded.encode(["Für [SEP]"])[0].tolist() == [FUER, UNK, UNK, UNK]  # lower case first: [sep]
    files(
        tmp_path, sentence_bert_config_json={"max_seq_length": None}, tokenizer_config_json={"model_max_length": 10**30}
    )
    assert longest_text(tmp_path) is None
    assert longest_text(files(tmp_path, tokenizer_config_json={"max_len": 64})) == (64, "tokenizer_config.json")


PAIRS = {
    "the longer one": ([6, 2], 9, [4, 2]),
    "both, the second has the odd one": ([9, 9], 8, [2, 3]),
    "both, the longer has the odd one": ([9, 8], 8, [3, 2]),
    "neither": ([2, 3], 8, [2, 3]),
    "the second": ([1, 9], 8, [1, 4]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_which_of_two_texts_is_cut(name):
    lengths, length, expected = PAIRS[name]
    template = Template.of(BERT_PROCESSOR)
    texts = [np.arange(100, 100 + lengths[0]), np.arange(200, 200 + lengths[1])]
    for from_left in (False, True):
        ids, types = template.around(texts, length, from_left)
        first, second = (ids[(ids >= start) & (ids < start + 100)].tolist() for start in (100, 200))
        assert [len(first), len(second)] == expected
        assert first == texts[0].tolist()[-expected[0] :] if from_left else first == texts[0].tolist()[: expected[0]]
        assert types.sum() == expected[1] + 1


def test_a_template_is_its_own_post_processor():
    names = ["<|a:1|>", "b c", "$A", "</s>"]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)} | {"x": 4}, unk_token="x"))
    made = Template.of(processors.RobertaProcessing(("b c", 1), ("<|a:1|>", 0)))
    assert Template.of(made.processor(backend.id_to_token)) == made
    assert (made.before, made.after) == ((0,), (1,))
    with pytest.raises(QtxError, match="no room beside the 2 special tokens"):
        made.around([np.array([4])], 2)


def table(path, *texts):
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{'xy'[i % 2]}\n" for i, text in enumerate(texts)))
    return str(path)


@pytest.mark.parametrize("objective", ["sequence_classification", "distill"])
def test_a_text_that_has_special_tokens_itself_is_whole(objective, tmp_path):
    file = table(tmp_path / "a.tsv", "a [SEP] b [PAD]", "a b")
    source = TextLabels(files=(file,), validation_files=(file,), tokenizer=str(vocab_txt(tmp_path)), sequence_length=8)
    batch = next(iter(load(DataConfig(source), objective).evaluation(2)))
    rows = sorted(tokens[mask].tolist() for tokens, mask in zip(batch["tokens"], batch["mask"], strict=True))
    assert rows == [[CLS, A, SEP, B, PAD, SEP], [CLS, A, B, SEP]]
    assert (batch["tokens"][~batch["mask"]] == PAD).all()


def test_a_tokenizer_may_have_more_entries_than_the_word_table(tmp_path):
    added = {"[E1]": 13, "[NOPAD]": 14}
    special = {"additional_special_tokens": list(added)}
    folder = vocab_txt(
        tmp_path,
        added_tokens_json=added,
        special_tokens_map_json=special,
        config_json={"model_type": "bert", "vocab_size": 13},
    )
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.vocab_size, len(tokenizer.is_special)) == (13, 13)
    masking = Masking(4, MASK, tokenizer.is_special)
    assert masking.ordinary_ids.tolist() == list(range(5, 13))
    drawn = [mask_tokens(np.full(8, A), masking, np.random.default_rng(i))["tokens"] for i in range(50)]
    assert np.max(drawn) < 13
    files_of = [table(tmp_path / f"{i}.tsv", *texts) for i, texts in enumerate((["a b", "b"], ["a", "see [E1] here"]))]
    options = dict(validation_files=(files_of[0],), tokenizer=str(folder), sequence_length=8)
    assert load(DataConfig(TextLabels(files=(files_of[0],), **options)), "distill").vocab_size == 13
    says = r"text_labels .*1.tsv: the training text 'see \[E1\] here' has the token '\[E1\]', number 13, .* has 13 rows"
    with pytest.raises(QtxError, match=says):
        load(DataConfig(TextLabels(files=(files_of[1],), **options)), "distill")
    (tmp_path / "a.txt").write_text("a b [E1] " * 9)
    with pytest.raises(QtxError, match=r"the training text 'a b \[E1\].* has the token"):
        text = (str(tmp_path / "a.txt"),)
        source = TextFiles(files=text, validation_files=text, tokenizer=str(folder), sequence_length=4)
        load(DataConfig(source), "mlm")
    # What nothing looks at, or is never drawn, needs no row; what stands around every text does.
    files(folder, tokenizer_config_json={"pad_token": "[NOPAD]", "mask_token": "[E1]"})
    assert (load_tokenizer(folder).pad, load_tokenizer(folder).mask) == (0, None)
    files(folder, tokenizer_config_json={"cls_token": "[E1]"})
    with pytest.raises(QtxError, match=r"what is put around a text has the token '\[E1\]', number 13"):
        load_tokenizer(folder)


def test_the_tokens_of_packed_documents(tmp_path):
    generic = {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer = load_tokenizer(byte_pairs(tmp_path, tokenizer_config_json=generic))
    with pytest.raises(QtxError, match="no token to begin a block of text"):
        _ = tokenizer.start
    files(tmp_path, tokenizer_config_json={**generic, "bos_token": "<s>", "eos_token": "</s>"})
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.start, tokenizer.end, tokenizer.template.before) == (0, 2, ())


BROKEN = {
    "tokenizer_config_json": {
        '{"do_lower_case": "yes"}': "do_lower_case is 'yes'",
        '{"cls_token": 7}': "'7' is no token",
        '{"cls_token": {"content": "x", "lstrip": 1}}': "the flags of token 'x'",
        '{"added_tokens_decoder": {"x": "y"}}': "no object of ids and tokens",
        '{"extra_special_tokens": 7}': "no list of special tokens",
        "[]": "not a JSON object",
        '{"tokenizer_class": "BertJapaneseTokenizer"}': "vocabulary of a BertJapaneseTokenizer, of which qtx reads",
        '{"cls_token": null, "tokenizer_class": "BertTokenizer"}': "no cls_token to put around a text",
    },
    "added_tokens_json": {'{"x": "y"}': "no object of tokens and ids"},
    "sentence_bert_config_json": {'{"do_lower_case": 1}': "do_lower_case is '1'"},
}


@pytest.mark.parametrize(
    ("name", "content", "message"), [(n, c, m) for n, rows in BROKEN.items() for c, m in rows.items()]
)
def test_broken_settings(name, content, message, tmp_path):
    with pytest.raises(QtxError, match=message) as caught:
        load_tokenizer(vocab_txt(tmp_path, **{name: content}))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
