"""Words with a label each: how files are read, words cut and numbered, and what is refused or counted."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import numpy as np
import pytest

from qtx.data import DataConfig, load, load_tokenizer
from qtx.data.classes import Known, Numbering, default_names
from qtx.data.sources import TokenLabels
from qtx.data.tagged_files import tagged_words
from qtx.foundation.errors import QtxError

SENTENCES = [
    (("The", "cafes", "of", "Rome"), ("O", "O", "O", "B-LOC")),
    (("caf\u00e9\u2028", '"', "#1"), ("O", "O", "I-MISC")),
    (("Anna", "Stone", "waits"), ("B-PER", "I-PER", "O")),
]


def conll(end="\n", tab=" ", numbers=None):
    """The file has four columns, lines between documents, and no line at its end."""
    rows = ["-DOCSTART- -X- -X- O", ""]
    for words, labels in SENTENCES:
        labels = [str(numbers.index(x)) for x in labels] if numbers else labels
        rows += [tab.join((word, "NN", "B-NP", label)) for word, label in zip(words, labels, strict=True)]
        rows += ["", ""]
    return end.join(rows[:-2]).encode()


def commented(comment, tab=" "):
    """Comments stand before a file's first sentence and within others."""
    text = conll(tab=tab).decode().replace("-DOCSTART- -X- -X- O".replace(" ", tab), "")
    return (comment + text.replace("\n\n\n", f"\n\n\n{comment}")).encode()


def objects(tags="ner_tags", names=None):
    rows = [
        {"tokens": words, tags: [names.index(x) for x in labels] if names else labels} for words, labels in SENTENCES
    ]
    return "\n".join(map(json.dumps, rows)).encode()


NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-MISC")
FORMS = {
    "blanks": ("a.conll", conll(), ()),
    "tabs": ("a.tsv", conll(tab="\t"), ()),
    "of another system": ("a.txt", b"\xef\xbb\xbf" + conll("\r\n"), ()),
    "wide, compressed": ("a.bio.gz", gzip.compress(conll(tab="   ")), ("0", "3")),
    "columns": (
        "a.iob2",
        b"\n".join(b" ".join(line.split(b" ")[::-1]) for line in conll().split(b"\n")).replace(b"O -X- -X- -D", b"-D"),
        ("3", "0"),
    ),
    "comments of CoNLL-U": ("a.conll", commented("# sent_id = 3\n# text = The cafes of\n#\n", "\t"), ()),
    "comments with a tab": ("a.conll", commented("# id 7\tdomain=en NN B-NP O\n"), ()),
    "objects": ("a.jsonl", objects(), ()),
    "objects of tags": ("a.jsonl", objects("tags"), ()),
    "objects of other keys": ("a.jsonl", objects("pos"), ("tokens", "pos")),
    "objects of numbers": ("a.jsonl", objects("labels", NAMES), ()),
    "numbers": ("a.conll", conll(numbers=NAMES), ()),
}


@pytest.mark.parametrize(("name", "content", "columns"), FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_sentences(tmp_path, name, content, columns):
    (tmp_path / name).write_bytes(content)
    found = list(tagged_words(tmp_path / name, *(columns or (None, None)), Numbering(NAMES)))
    assert found == SENTENCES


def test_sentences_without_a_word_are_counted_and_halves_of_characters_mended(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a\\ud83d"], "tags": ["O"]}\n{"tokens": [], "tags": []}\n')
    mended = Counter[str]()
    assert list(tagged_words(tmp_path / "a.jsonl", mended=mended)) == [(("a\ufffd",), ("O",))]
    assert mended == {"halves": 1, "empty": 1}


REFUSED = {
    "another kind": ("a.csv", b"a,b\n", "a.csv has no words with labels: expected .conll, .bio"),
    "one column": ("a.conll", b"a\n", "line 1: only one column: expected a word and its label"),
    "a column more": ("a.conll", b"a O\n\nb x O\n", "line 3: 3 columns, but 2 in line 1: expected as many"),
    "no label": ("a.conll", b"a\tO\nb\t \n", "line 2: a word has no label: expected one, e.g. O"),
    "unknown": ("a.conll", b"a O\nb B-ORG\n", "line 2: label 'B-ORG' is none of the classes O, B-PER"),
    "lengths": ("a.jsonl", b'{"tokens": ["a", "b"], "tags": ["O"]}', "line 1: 2 words, but 1 labels: expected one for"),
    "no list": ("a.jsonl", b'{"tokens": "a b", "tags": ["O"]}', "line 1: tokens is 'a b': expected a list, or its key"),
    "no key": (
        "a.jsonl",
        b'{"words": ["a"], "tags": ["O"]}',
        "tokens is not among words, tags: expected a list, or it",
    ),
    "no tags": ("a.jsonl", b'{"tokens": ["a"]}', "ner_tags is not among tokens: expected a list, or its key in data.l"),
    "no object": ("a.jsonl", b"[1]", "line 1: expected an object with a list of words and a list of labels"),
    "no word": ("a.jsonl", b'{"tokens": [3], "tags": ["O"]}', "line 1: '3' is no word: expected a list of texts"),
    "no tag": ("a.jsonl", b'{"tokens": ["a"], "tags": [true]}', "line 1: label 'True': expected a name, or the number"),
    "a number beyond": ("a.jsonl", b'{"tokens": ["a"], "tags": [5]}', "label 5 is the number of no class: there are 5"),
}


@pytest.mark.parametrize(("name", "content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_sentence_of_words_with_labels_is_told_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QtxError) as error:
        list(tagged_words(tmp_path / name, numbering=Numbering(NAMES)))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_word_may_begin_as_a_comment_does(tmp_path):
    (tmp_path / "a.conll").write_text("# O\n#1 O\nof O\n# a comment\n")
    assert list(tagged_words(tmp_path / "a.conll")) == [(("#", "#1", "of"), ("O",) * 3)]
    (tmp_path / "b.conll").write_text("# B-LOC\n")
    assert list(tagged_words(tmp_path / "b.conll")) == [(("#",), ("B-LOC",))]


def test_numbers_need_names_and_columns_their_numbers(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(objects("tags", NAMES))
    with pytest.raises(QtxError, match="line 1: labels are numbers, which need not be the model's, of O, B-PER, I-PER"):
        list(tagged_words(tmp_path / "a.jsonl", numbering=Numbering(Known(NAMES))))
    unnamed = list(tagged_words(tmp_path / "a.jsonl", numbering=Numbering(Known(default_names(5)))))
    assert unnamed[0].labels == ("LABEL_0", "LABEL_0", "LABEL_0", "LABEL_3")
    with pytest.raises(QtxError, match="line 1: labels are numbers: set data.classes to their names in this order"):
        list(tagged_words(tmp_path / "a.jsonl"))
    (tmp_path / "b.conll").write_text("a 0\nb 1\n")
    with pytest.raises(QtxError, match="line 1: labels are numbers: set data.classes to their names in this order"):
        list(tagged_words(tmp_path / "b.conll"))
    assert list(tagged_words(tmp_path / "b.conll", numbering=Numbering(("1", "0"))))[0].labels == ("0", "1")
    (tmp_path / "a.conll").write_bytes(conll())
    for columns, option in ((("4", None), "text_column"), ((None, "ner"), "label_column")):
        with pytest.raises(QtxError, match=f"line 3: no column '{'4' if columns[0] else 'ner'}', .*data.{option} to "):
            list(tagged_words(tmp_path / "a.conll", *columns))


PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "caf", "##es", "of", "rome", "anna", "stone", "waits")


@pytest.fixture
def files(tmp_path):
    """The file of sentences, and a tokenizer that knows some of their words."""
    (tmp_path / "a.conll").write_bytes(conll() + b"\n\n\xe2\x80\x8b x x O\nRome x x B-LOC\n")
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES))
    return str(tmp_path / "a.conll"), str(tmp_path / "vocab.txt")


def loaded(files, objective="token_classification", length=16, **options):
    file, tokenizer = files
    source = TokenLabels(
        files=(file,), validation_files=(file,), tokenizer=tokenizer, sequence_length=length, **options
    )
    return load(DataConfig(source), objective)


def test_a_word_has_its_label_at_its_first_piece(files):
    data = loaded(files)
    assert data.classes == ("B-LOC", "B-PER", "I-MISC", "I-PER", "O")
    found = {}
    for tokens, mask, labels, weights in zip(*(next(iter(data.evaluation(4)))[x] for x in ARRAYS), strict=True):
        assert mask[: mask.sum()].all() and (tokens[~mask] == 0).all() and not weights[~mask].any()
        pieces = data.tokenizer.tokens(tokens[mask])
        assert (pieces[0], pieces[-1]) == ("[CLS]", "[SEP]") and (weights[0], weights[mask.sum() - 1]) == (0, 0)
        named = [data.classes[i] if w else "" for i, w in zip(labels[mask], weights[mask], strict=True)]
        found[" ".join(pieces[1:-1])] = named[1:-1]
    assert found == {
        "the caf ##es of rome": ["O", "O", "", "O", "B-LOC"],
        "[UNK] [UNK] [UNK] [UNK]": ["O", "O", "I-MISC", ""],
        "anna stone waits": ["B-PER", "I-PER", "O"],
        "rome": ["B-LOC"],
    }
    assert "; held-out texts that are in training too: 4; " in data.description
    assert data.description.endswith("; words of which the tokenizer makes nothing, which count nowhere: 2")


ARRAYS = ("tokens", "mask", "labels", "weights")


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_that_are_cut_off_are_counted(files, side, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"truncation_side": side}))
    data = loaded(files, length=5)
    cut = {"right": 2, "left": 2 + 1}[side]
    assert f"; words beyond sequence_length, which count nowhere: {2 * cut};" in data.description
    (row,) = (i for i in range(4) if 8 in data.held_out[i][:5] or 5 in data.held_out[i][:5])
    made = data.example(data.held_out[row], np.random.default_rng(0))
    kept = {"right": (["the", "caf", "##es"], [1, 1, 0]), "left": (["##es", "of", "rome"], [0, 1, 1])}[side]
    assert (data.tokenizer.tokens(made["tokens"][1:4]), made["weights"][1:4].tolist()) == kept


def test_a_distilled_model_reads_the_words_alone(files, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(objects("tags", NAMES))
    one, other = loaded(files, "distill"), loaded((str(tmp_path / "a.jsonl"), files[1]), "distill")
    batch = next(iter(one.evaluation(2)))
    assert batch.keys() == {"tokens", "mask", "weights"} and one.num_classes is None
    assert {row.tobytes() for row in other.held_out} <= {row.tobytes() for row in one.held_out}
    assert one.digests != other.digests
    for name, row in (("b.jsonl", '{"tokens": ["the", "%s"]}\n'), ("b.conll", "the\n%s\n\n")):
        (tmp_path / name).write_text(row % "rome" + row % "anna")
        assert len(loaded((str(tmp_path / name), files[1]), "distill").training) == 2
        with pytest.raises(QtxError, match="only one column: expected a word and its|ner_tags is not among tokens"):
            loaded((str(tmp_path / name), files[1]))


def test_classes_have_the_order_that_is_given_and_all_labels_are_known(files, tmp_path):
    data = loaded(files, classes=NAMES)
    assert data.classes == NAMES
    with pytest.raises(
        QtxError, match="a.conll, line 3: label 'O' is none of the classes B-PER, I-PER: correct it, or"
    ):
        loaded(files, classes=("B-PER", "I-PER"))
    (tmp_path / "b.conll").write_text("a O\n\nb O\n")
    with pytest.raises(QtxError, match="only one class, O: expected"):
        loaded((str(tmp_path / "b.conll"), files[1]))
    (tmp_path / "b.conll").write_text("\n")
    with pytest.raises(QtxError, match="no text in .*b.conll: expected a file that is not empty"):
        loaded((str(tmp_path / "b.conll"), files[1]))


def test_words_of_byte_pairs_begin_with_a_space(tmp_path):
    """A word begins with a space whether or not the tokenizer puts one before a text, which stays as it is."""
    from tokenizers import pre_tokenizers

    tokens = ("<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "\u0120a")
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n\u0120 a\n")
    tokenizer = load_tokenizer(tmp_path)
    [(ids, of_words)] = tokenizer.encode_words([("a", "ba")])
    assert tokenizer.tokens(ids) == ["\u0120a", "\u0120", "b", "a"] and of_words.tolist() == [0, 1, 1, 1]
    assert tokenizer.tokens(tokenizer.encode(["a"])[0]) == ["a"]
