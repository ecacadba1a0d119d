"""The folders of `qtx export --format=onnx` in the libraries that people load such folders with: sentence-transformers
and optimum, which want an older transformers than the other tests, in an environment of their own (`.ci/run`)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import qtx

try:
    import onnxruntime
    import optimum.onnxruntime
    import torch
    import transformers
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from tokenizers import ByteLevelBPETokenizer
except ImportError as error:
    if os.environ.get("QTX_REQUIRE_LOADERS"):
        raise
    pytest.skip(f"needs sentence-transformers[onnx]: {error}", allow_module_level=True)

# The libraries warn of each other.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

TEXTS = ["The cat sat on the mat.", "A dog.", "a cat on a dog on a mat"]
PAIRS = [("the cat sat", "a dog sat"), ("a dog", "the cat on the mat")]
WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "."]
LONGEST, IMAGE, CLASSES = 24, 12, 3
FLOATING, QUANTIZED = "model.onnx", "model_quantized.onnx"
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def of_words(folder, special):
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]))
    return [str(folder / "vocab.txt")]


def of_bytes(folder, special):
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(TEXTS, vocab_size=300, special_tokens=list(special))
    return pieces.save_model(str(folder))


class Kind(NamedTuple):
    """A kind of checkpoint: options of its config, its tokenizer, that one's files and special tokens."""

    options: dict
    tokenizer: str
    files: Callable
    special: tuple[str, ...]


OF_BERT, OF_ROBERTA = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
# RoBERTa and MPNet have two rows in their table of positions that no text has.
POSITIONS = {"max_position_embeddings": LONGEST + 2}
OF_DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
OF_OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48, "word_embed_proj_dim": 32}
KINDS = {
    "Bert": Kind(SHAPE, "BertTokenizerFast", of_words, OF_BERT),
    "DistilBert": Kind(OF_DISTILBERT, "DistilBertTokenizerFast", of_words, OF_BERT),
    "MPNet": Kind(SHAPE | POSITIONS, "MPNetTokenizerFast", of_words, (*OF_ROBERTA, "[UNK]")),
    "Roberta": Kind(SHAPE | POSITIONS | {"type_vocab_size": 1}, "RobertaTokenizerFast", of_bytes, OF_ROBERTA),
    "OPT": Kind(OF_OPT, "GPT2TokenizerFast", of_bytes, OF_ROBERTA),
}


def saved(folder, kind, head, **options):
    """A checkpoint with random weights, and its tokenizer, as transformers writes them."""
    folder.mkdir(parents=True)
    known = {"initializer_range": 0.2}  # so that integers are not the same
    if kind == "ViT":
        known |= SHAPE | {"image_size": IMAGE, "patch_size": 4}
    else:
        one = KINDS[kind]
        tokenizer = getattr(transformers, one.tokenizer)(*one.files(folder, one.special))
        tokenizer.add_special_tokens({"pad_token": next(token for token in one.special if "pad" in token.lower())})
        tokenizer.save_pretrained(folder)
        known |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        known |= {"max_position_embeddings": LONGEST} | one.options
    torch.manual_seed(0)
    getattr(transformers, kind + head)(getattr(transformers, f"{kind}Config")(**known | options)).save_pretrained(
        folder
    )
    return folder


def exported(original, place, **options):
    """The model that qtx has of a checkpoint, and the folder of its graphs."""
    options |= {"quantization.calibration_batches": 2}
    if (original / "tokenizer.json").exists():
        (place / "texts.txt").write_text("\n\n".join(["the cat sat on the mat . " * 400, "a dog . " * 400]))
        texts = {"source": "text_files", "files": (str(place / "texts.txt"),), "document_separator": r"\n\n"}
        options |= {f"data.{name}": value for name, value in texts.items()}
    model = qtx.load(original, options=options)
    return model, model.export(place / "out", "onnx")


def by_hand(folder, file, inputs):
    """Returns what ONNX Runtime alone computes, by the outputs' names."""
    session = onnxruntime.InferenceSession(folder / "onnx" / file)
    feeds = {one.name: np.asarray(inputs[one.name]) for one in session.get_inputs()}
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, feeds), strict=True))


def close(found, expected, rounding):
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding * np.abs(expected).max())


def check_embeddings(folder, expected):
    """The library's embeddings are `expected` by the graph in floating point, which it takes unless told otherwise, and
    by the other graph those of the integers."""
    for given in ({}, {"file_name": FLOATING}, {"file_name": QUANTIZED}, {"file_name": f"onnx/{QUANTIZED}"}):
        model = SentenceTransformer(str(folder), device="cpu", backend="onnx", model_kwargs=dict(given))
        found, inputs = model.encode(TEXTS), model.tokenizer(TEXTS, padding=True, return_tensors="np")
        file = Path(given.get("file_name", FLOATING)).name
        close(found, by_hand(folder, file, inputs)["sentence_embedding"], 1e-6)
        if file == FLOATING:
            close(found, expected, 1e-5)
        else:
            assert np.abs(found - expected).max() > 1e-4 * np.abs(expected).max()


ENCODERS = [
    ("Bert", "cls", lambda: [Normalize()]),
    ("Bert", "max", lambda: [Dense(32, 5), Normalize()]),
    ("Bert", "mean_sqrt_len_tokens", lambda: []),
    ("DistilBert", "mean", lambda: []),
    ("MPNet", "mean", lambda: [Normalize()]),
    ("Roberta", "mean", lambda: [Normalize(), Dense(32, 40, activation_function=torch.nn.GELU())]),
]


@pytest.mark.parametrize(("kind", "pooling", "further"), ENCODERS)
def test_sentence_encoders(tmp_path, kind, pooling, further):
    parts = [Transformer(str(saved(tmp_path / "encoder", kind, "Model"))), Pooling(32, pooling), *further()]
    SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "original"))
    model, folder = exported(tmp_path / "original", tmp_path)
    check_embeddings(folder, model.encode(TEXTS))


@pytest.mark.parametrize("pooling", ["max", "cls+mean"])
def test_a_pooling_that_the_checkpoint_does_not_name(tmp_path, pooling):
    chosen = {"model.pooling": pooling, "model.normalize": True}
    model, folder = exported(saved(tmp_path / "original", "Bert", "Model"), tmp_path, **chosen)
    check_embeddings(folder, model.encode(TEXTS))


def test_an_attention_that_transformers_does_not_have(tmp_path):
    attention = {"model.attention.normalizer": "clipped_softmax", "model.attention.gamma": -0.03}
    few = {"data.sequence_length": 32, "quantization.calibration_batches": 2}
    model = qtx.load("builtin:minilm-2l", options={**few, **attention})
    check_embeddings(model.export(tmp_path, "onnx"), model.encode(TEXTS))


HEADS = [
    ("Bert", "Model", "FeatureExtraction", {}),
    ("Bert", "ForSequenceClassification", "SequenceClassification", {"num_labels": CLASSES}),
    ("Bert", "ForTokenClassification", "TokenClassification", {"num_labels": CLASSES}),
    ("Bert", "ForQuestionAnswering", "QuestionAnswering", {}),
    ("Bert", "ForMaskedLM", "MaskedLM", {}),
    ("DistilBert", "ForSequenceClassification", "SequenceClassification", {"num_labels": CLASSES}),
    ("Roberta", "ForMaskedLM", "MaskedLM", {}),
    ("OPT", "ForCausalLM", "CausalLM", {}),
    ("ViT", "ForImageClassification", "ImageClassification", {"num_labels": CLASSES}),
]


@pytest.mark.parametrize(("kind", "head", "task", "options"), HEADS)
def test_heads(tmp_path, kind, head, task, options):
    """By the graph in floating point optimum computes what transformers does by the checkpoint, and by the other one
    what ONNX Runtime does."""
    original = saved(tmp_path / "original", kind, head, **options)
    _, folder = exported(original, tmp_path)
    if kind == "ViT":
        inputs = {"pixel_values": torch.rand(2, 3, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))}
    else:
        inputs = transformers.AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = getattr(transformers, kind + head).from_pretrained(original).eval()(**inputs)
    kind_of_loader = getattr(optimum.onnxruntime, f"ORTModelFor{task}")
    without_cache = {"use_cache": False} if task == "CausalLM" else {}
    for given in ({}, {"file_name": QUANTIZED}, {"file_name": QUANTIZED, "subfolder": "onnx"}):
        found = kind_of_loader.from_pretrained(folder, **given, **without_cache)(**inputs)
        for name, values in by_hand(folder, given.get("file_name", FLOATING), inputs).items():
            if name == "sentence_embedding":
                continue
            np.testing.assert_array_equal(found[name], values)
            real, expected = of_real(values, inputs), of_real(theirs[name].numpy(), inputs)
            if not given:
                close(real, expected, 2e-5)
            else:
                assert np.abs(real - expected).max() > 1e-4 * np.abs(expected).max()


def of_real(x, inputs):
    """The values of tokens that are no padding, if they are of tokens."""
    mask = np.asarray(inputs.get("attention_mask", np.ones(())), bool)
    return x[mask] if mask.ndim and x.shape[:2] == mask.shape else x


def test_a_reranker(tmp_path):
    original = saved(tmp_path / "original", "Bert", "ForSequenceClassification", num_labels=1)
    _, folder = exported(original, tmp_path)
    scores = CrossEncoder(str(original), device="cpu").predict(PAIRS)
    for file in (FLOATING, QUANTIZED):
        model = CrossEncoder(str(folder), device="cpu", backend="onnx", model_kwargs={"file_name": file})
        found, inputs = (
            model.predict(PAIRS),
            model.tokenizer(*zip(*PAIRS, strict=True), padding=True, return_tensors="np"),
        )
        close(found, 1 / (1 + np.exp(-by_hand(folder, file, inputs)["logits"][:, 0])), 1e-6)
        if file == FLOATING:
            close(found, scores, 1e-5)
        else:
            assert np.abs(found - scores).max() > 1e-4
