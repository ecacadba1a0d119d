"""The ids of transformers' `AutoTokenizer`, token for token, for folders as transformers and people write them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from qtx.builtin import builtin_checkpoint
from qtx.data import VOCABULARIES, load_tokenizer
from tests.data.samples import prose, save

try:
    import transformers
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_TRANSFORMERS"):
        raise
    pytest.skip(f"needs transformers (pip install qtx[hf]): {error}", allow_module_level=True)

SHARED = Path(__file__).parents[3] / "shared"
LETTERS = "abcdefghijklmnopqrstuvwxyzéüßABCDEFG.,!?[]<>/|"
WORDS = ("the", "cafe", "café", "für", "naive", "The", "Cafe", "日", "本", "日本", "##s", "##e", "##é", "##ü")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = [
    *SPECIALS,
    *LETTERS,
    *(f"##{c}" for c in LETTERS),
    *(w for w in WORDS if w not in ("##s", "##e", "##é", "##ü")),
]
ANGLED = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
BYTES = {
    token: i
    for i, token in enumerate(
        (*ANGLED, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "Ġth", "Ġthe", "<|endoftext|>")
    )
}
MERGES = "#version: 0.2\nt h\nĠ th\nĠth e\n"
UNIGRAM = (
    [(t, 0.0) for t in ANGLED[:4]]
    + [("▁", -3.0), ("▁the", -4.0), ("é", -5.0)]
    + [(c, -9.0) for c in LETTERS if c != "é"]
)
TEXTS = [
    "",
    " ",
    "the Cafe, The café für naïve",
    "  the   cafe\t\tthe\n\nthe  ",
    "日本 the日本語 한국어 🙂👩‍👩‍👧",
    "e\u0301 ﬁ Å ½ \x00 \u200b \ufeff",
    "the [MASK] cafe [SEP] the<mask> </s> <s> <pad>[UNK] <s>NOTUSED",
    "the [E1] cafe[/E1]the [ E1 ] ent Entent ent. <new> the<new>the",
    "<|endoftext|> the <|x:y|>",
    "the cafe " * 30,
]
PAIRS = [
    ("the cafe", "für the"),
    ("", "the"),
    ("the " * 20, "cafe " * 3),
    ("the " * 3, "cafe " * 20),
    ("the " * 9, "the " * 9),
]
LENGTH = 13


def written(folder, model_type="bert", **files):
    """Files of JSON, by name without its ending, and of text."""
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 10_000}))
    for name, content in files.items():
        name, _, suffix = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")


def vocab_txt(folder, **options):
    written(folder, vocab_txt="\n".join(PIECES) + "\n", **options)


def markers():
    return [AddedToken("[E1]"), AddedToken("[/E1]", lstrip=True, rstrip=True)]


def bert(folder, **options):
    vocab_txt(folder)
    tokenizer = transformers.BertTokenizer.from_pretrained(folder, **options)
    tokenizer.add_special_tokens({"additional_special_tokens": markers()})
    tokenizer.add_tokens([AddedToken("ent", single_word=True), AddedToken("<new>", normalized=False), "Cafe"])
    (folder / "vocab.txt").unlink()
    tokenizer.save_pretrained(folder)


def without_post_processor(folder, **options):
    bert(folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**values, "post_processor": None, **options}))


def with_other_case(folder):
    """The settings say otherwise than tokenizer.json, and precede."""
    bert(folder, do_lower_case=True)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_lower_case": False, "strip_accents": True}))


def legacy(folder):
    """As transformers wrote before version 4: a vocabulary, and what was added to it."""
    size = len(PIECES)
    vocab_txt(
        folder,
        added_tokens_json={"[/E1]": size + 1, "<new>": size + 2, "[E1]": size},
        special_tokens_map_json={
            **{f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls")},
            "mask_token": {
                "content": "[MASK]",
                "lstrip": True,
                "rstrip": False,
                "single_word": False,
                "normalized": False,
            },
            "additional_special_tokens": ["[E1]", "[/E1]"],
        },
        tokenizer_config_json={"do_lower_case": True, "tokenizer_class": "BertTokenizer", "model_max_length": 512},
    )


def byte_pairs(folder, model_type, **options):
    written(folder, model_type, vocab_json=BYTES, merges_txt=MERGES, tokenizer_config_json=options)


def opt(folder, **options):
    end = {
        "__type": "AddedToken",
        "content": "</s>",
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
    }
    tokens = {"bos_token": end, "eos_token": end, "unk_token": end, "pad_token": "<pad>"}
    byte_pairs(folder, "opt", tokenizer_class="GPT2Tokenizer", add_bos_token=True, **tokens, **options)


def unigram(folder, class_name="XLMRobertaTokenizer"):
    tokens = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), ANGLED[:4], strict=True))
    tokens |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": AddedToken("<mask>", lstrip=True)}
    if class_name == "XLMRobertaTokenizer":
        tokenizer = transformers.XLMRobertaTokenizer(vocab=UNIGRAM)
    elif class_name == "AlbertTokenizer":
        pieces = [("<pad>", 0.0), ("<unk>", 0.0), *((token, 0.0) for token in SPECIALS[2:]), *UNIGRAM[4:]]
        tokenizer = transformers.AlbertTokenizer(vocab=pieces)
    elif class_name == "CamembertTokenizer":
        unused = [(f"{token}NOTUSED", 0.0) for token in ("<s>", "</s>", "<unk>")]
        tokenizer = transformers.CamembertTokenizer(vocab=[*unused, *UNIGRAM, ("<mask>", 0.0)])
    else:
        backend = Tokenizer(models.Unigram(UNIGRAM, unk_id=3, byte_fallback=False))
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **tokens)
    tokenizer.add_special_tokens({"additional_special_tokens": markers()})
    tokenizer.save_pretrained(folder)
    written(folder)


def told_by_its_model(folder, model_type):
    """Neither settings nor tokenizer.json say which tokens are special, and which are put around a text."""
    unigram(folder, f"{model_type.capitalize()}Tokenizer")
    (folder / "tokenizer_config.json").unlink()
    values = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**values, "post_processor": None, "added_tokens": []}))
    written(folder, model_type)


def from_the_left(folder):
    bert(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation_side": "left"}))


def copied(original):
    def make(folder):
        if not original.is_dir():
            pytest.skip(f"{original} is not here")
        for file in original.glob("*.*"):
            if file.suffix in (".json", ".txt"):
                shutil.copy(file, folder)

    return make


MAKERS = {
    "vocab.txt and a model": lambda f: vocab_txt(f, tokenizer_config_json={}),
    "cased": lambda f: vocab_txt(f, tokenizer_config_json={"do_lower_case": False}),
    "accents kept": lambda f: vocab_txt(f, tokenizer_config_json={"strip_accents": False}),
    "Chinese not cut": lambda f: vocab_txt(f, tokenizer_config_json={"tokenize_chinese_chars": False}),
    "other special tokens": lambda f: vocab_txt(f, tokenizer_config_json={"cls_token": "the", "sep_token": "[NEW]"}),
    "BERT's": bert,
    "BERT's, cased": lambda f: bert(f, do_lower_case=False),
    "settings precede": with_other_case,
    "from the left": from_the_left,
    "without a post-processor": without_post_processor,
    "legacy": legacy,
    "MPNet's": lambda f: written(
        f, "mpnet", vocab_txt="\n".join([*ANGLED[:3], "[UNK]", "<mask>", *PIECES[5:]]), tokenizer_config_json={}
    ),
    "RoBERTa's": lambda f: byte_pairs(f, "roberta"),
    "RoBERTa's, spaced": lambda f: byte_pairs(f, "roberta", add_prefix_space=True, tokenizer_class="RobertaTokenizer"),
    "OPT's": opt,
    "OPT's, ended": lambda f: opt(f, add_eos_token=True),
    "GPT-2's": lambda f: byte_pairs(f, "gpt2"),
    "XLM-R's": unigram,
    "CamemBERT's": lambda f: unigram(f, "CamembertTokenizer"),
    "CamemBERT's, told by its model": lambda f: told_by_its_model(f, "camembert"),
    "ALBERT's": lambda f: unigram(f, "AlbertTokenizer"),
    "ALBERT's, told by its model": lambda f: told_by_its_model(f, "albert"),
    "DistilBERT's": lambda f: vocab_txt(f, model_type="distilbert", tokenizer_config_json={"do_lower_case": False}),
    "ELECTRA's": lambda f: vocab_txt(
        f, model_type="electra", tokenizer_config_json={"tokenizer_class": "ElectraTokenizer", "do_lower_case": True}
    ),
    "Unigram of nobody's": lambda f: unigram(f, "PreTrainedTokenizerFast"),
    "built in": copied(builtin_checkpoint("minilm-2l")),
    "all-MiniLM": copied(SHARED / "models" / "all-minilm-l6-v2"),
}


def theirs(tokenizer, *texts, **options):
    found = tokenizer(*texts, **options)
    return found["input_ids"], found.get("token_type_ids")


def check(ours, other):
    for text in TEXTS:
        ids, [inner] = theirs(other, text)[0], ours.encode([text])
        assert ours.template.around([inner], 10_000)[0].tolist() == ids, (text, other.convert_ids_to_tokens(ids))
        cut = theirs(other, text, truncation=True, max_length=LENGTH)[0]
        assert ours.template.around([inner], LENGTH, ours.from_left)[0].tolist() == cut, text
    for pair in PAIRS:
        inner = ours.encode(pair)
        for options, length in (({}, 10_000), ({"truncation": True, "max_length": LENGTH}, LENGTH)):
            ids, types = theirs(other, *pair, **options)
            made, kinds = ours.template.around(inner, length, ours.from_left)
            assert made.tolist() == ids, pair
            assert types is None or kinds.tolist() == types, pair
    for role in ("pad", "mask"):
        named = getattr(other, f"{role}_token_id")
        assert named is None or getattr(ours, role) == named, role


@pytest.mark.parametrize("name", MAKERS)
def test_the_ids_are_those_of_transformers(name, tmp_path):
    made, kept, exported = (tmp_path / name for name in ("made", "kept", "exported"))
    for folder in (made, kept, exported):
        folder.mkdir()
    MAKERS[name](made)
    ours = load_tokenizer(made)
    check(ours, transformers.AutoTokenizer.from_pretrained(made))
    save(ours, kept)
    again = load_tokenizer(kept)
    assert again.digest == ours.digest
    check(again, transformers.AutoTokenizer.from_pretrained(made))
    written(exported, json.loads((made / "config.json").read_text())["model_type"])
    for file, content in ours.for_export().items():
        (exported / file).write_bytes(content)
    check(ours, transformers.AutoTokenizer.from_pretrained(exported))


@pytest.mark.parametrize("name", sorted(VOCABULARIES))
def test_an_export_of_one_that_was_trained_here_is_the_same_in_transformers(name, tmp_path):
    ours = VOCABULARIES[name]([prose(i, 200) for i in range(3)], {"wordpiece": 150, "bpe": 300}[name])
    written(tmp_path, {"wordpiece": "bert", "bpe": "opt"}[name])
    for file, content in ours.for_export().items():
        (tmp_path / file).write_bytes(content)
    check(ours, transformers.AutoTokenizer.from_pretrained(tmp_path))
    np.testing.assert_array_equal(load_tokenizer(tmp_path).encode(TEXTS[6:7])[0], ours.encode(TEXTS[6:7])[0])
