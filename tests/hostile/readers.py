"""Every reader of files: how to make a whole file, how qtx reads it, and what it may return for a damaged one.

A new reader is a line in `READERS`: `test_hostile_files.py` damages its file in thousands of ways.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow_datasets as tfds
import zstandard
from PIL import Image
from safetensors.numpy import save as safetensors_bytes

from qtx.analysis import load_analysis, save_analysis
from qtx.analysis.sensitivity import Sensitivity, Sweep, load_sweep, save_sweep
from qtx.data import TextTokenizer, load_tokenizer
from qtx.data.choice_files import choice_questions
from qtx.data.image_files import Survey, image_files, open_image
from qtx.data.images import ImageOptions
from qtx.data.prepared.writing import EXPECTED as PREPARATION
from qtx.data.prompts import PROMPTS, read_prompts
from qtx.data.question_files import questions
from qtx.data.reading import documents
from qtx.data.sources.idx import read_idx
from qtx.data.tables import labelled_texts
from qtx.data.tagged_files import tagged_words
from qtx.data.tfds_datasets import Dataset, open_dataset
from qtx.data.tokenization import bert_backend, byte_level_backend
from qtx.experiment import default, read, record
from qtx.foundation.storage import Expected, read_sealed_json, sealed_json, verify, with_checksum, write_whole
from qtx.interop import load as load_huggingface
from qtx.interop import save as save_huggingface
from qtx.interop.ends import ends_of
from qtx.interop.pixels import PREPROCESSOR, pixel_options, processor_of
from qtx.interop.sentence import dense_files, read_modules
from qtx.interop.stored import open_folder
from qtx.models.pooling import POOLINGS
from qtx.pages.results import read_lines, write_lines
from qtx.pipeline.measurements import add, read_measurements
from qtx.quantization import QuantizationConfig, calibrate
from qtx.quantization.files import load_ranges, read_ranges, save_ranges
from qtx.quantization.integer import convert
from qtx.quantization.integer import load as load_integers
from qtx.quantization.integer import save as save_integers
from qtx.quantization.methods import Gptq
from qtx.quantization.recipes.recorded import as_data
from qtx.training import RunFolder, read_metrics
from qtx.training.bad_steps import keep_batch, read_batch
from tests.data.samples import idx_bytes, png, prose, write_choices, write_questions, write_words
from tests.data.tfds_samples import write_tfds
from tests.interop.kinds import IMAGE, KINDS, shard
from tests.pages.test_report import make_analysis
from tests.quantization.test_calibration import make


@dataclasses.dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
      make: writes a whole file into an empty folder, with what it needs beside it, and returns it.
      read: reads the file, given its path.
      fits: whether a value has the right shape, for a foreign file; None for one of our own, which gives the value that
        was written or none.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    fits: Callable[[Any], bool] | None = None


def make_run_config(folder: Path) -> Path:
    run = RunFolder(folder / "run")
    run.claim({**record(read(default("opt"))), "identity": {"training": "a" * 64, "held_out": "b" * 64}})
    return run.config


def make_recipe(folder: Path) -> Path:
    experiment = read(default("opt"))
    rules = dataclasses.replace(experiment.quantization, recipe="strict")
    entry = as_data(rules.make_recipe("w8a8", experiment.model), *rules.quantizers("w8a8"))
    (folder / "recipe.json").write_bytes(sealed_json({"w8a8": entry}))
    return folder / "recipe.json"


def recorded(file: Path) -> Any:
    config = QuantizationConfig(recipe=str(file))
    return config.make_recipe("w8a8", read(default("opt")).model)


def make_results(folder: Path) -> Path:
    head = {"variant": "softmax", "seed": 0, "parameters": 10, "metric": "perplexity"}
    measured = {"checkpoint": 4, "scheme": "fp", "data": {"own": True}, "held_out_batches": {"used": 1, "of": 2}}
    add(RunFolder(folder / "run"), head, [{**measured, "values": {"perplexity": 3.5, "loss": 1.25}}])
    return folder / "run" / "results.json"


def make_lines(folder: Path) -> Path:
    line = {"variant": "softmax", "seed": 0, "fp": 3.5, "quantized": {"w8a8": float("inf")}}
    write_lines([line, {**line, "seed": 1}], folder / "results.jsonl")
    return folder / "results.jsonl"


def written(name: str, content: bytes) -> Callable[[Path], Path]:
    """Makes a file of `content`."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


@functools.cache
def quantized(method: Any = None) -> tuple[Any, ...]:
    module, params, batches = make("opt")
    recipe = QuantizationConfig(recipe="paper_opt", weight_estimator="minmax").make_recipe("w4a8", module.config)
    return calibrate(module, params, recipe, batches, 1, *([method] if method else [])), params, recipe, batches[0]


def make_ranges(folder: Path) -> Path:
    calibrated, params, *_ = quantized(Gptq())
    save_ranges(calibrated, params, folder / "w4a8.safetensors", "gptq", "w4a8")
    return folder / "w4a8.safetensors"


def ranges(file: Path) -> Any:
    calibrated, params, recipe, batch = quantized(Gptq())
    return load_ranges(calibrated.module, params, recipe, batch, read_ranges(file))


def make_integers(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        save_integers(convert(quantized()[0]), folder)
        return folder / name

    return make


def integers(file: Path) -> Any:
    return load_integers(quantized()[0].module, file.parent)


def make_analysis_file(folder: Path) -> Path:
    save_analysis(make_analysis(), folder / "analysis.npz")
    return folder / "analysis.npz"


def make_sweep(folder: Path) -> Path:
    rows = tuple(Sensitivity("weight", f"layers/{i}", i, 8, 30.5, 4.5, float("inf")) for i in range(3))
    return save_sweep(Sweep("w8a8", "perplexity", 4.5, 5.0, rows), folder)


def make_metrics(folder: Path) -> Path:
    lines = [{"step": i, "split": "train", "loss": 2.5 / (i + 1)} for i in range(6)]
    return written("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())(folder)


def are_metrics(lines: Any) -> bool:
    return all(isinstance(line, dict) and {"step", "split"} <= line.keys() for line in lines)


def make_checkpoint(name: str) -> Callable[[Path], Path]:
    def make_folder(folder: Path) -> Path:
        module, params, _ = make("opt", "gated_linear")
        save_huggingface(folder, module.config, params)
        if name == "model.safetensors":  # as from elsewhere, without our checksum
            from safetensors.numpy import load_file, save_file

            save_file(load_file(folder / name), folder / name)
        return folder / name

    return make_folder


def is_model(loaded: Any) -> bool:
    config, params = loaded
    kernel = params["layers"]["mlp"]["in"]["kernel"]
    return kernel.shape == (config.num_layers, config.width, config.mlp_width) and kernel.dtype == np.float32


def make_kind(kind: str, name: str, shards: int = 0, dtype: Any = np.float32) -> Callable[[Path], Path]:
    def make_folder(folder: Path) -> Path:
        KINDS[kind].write(folder, dtype)
        if shards:
            shard(folder, shards)
        return folder / name

    return make_folder


def make_modules(name: str) -> Callable[[Path], Path]:
    def make_folder(folder: Path) -> Path:
        types = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_Normalize"}
        modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in types.items()]
        (folder / "1_Pooling").mkdir()
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense/config.json").write_text('{"in_features": 4, "out_features": 3, "bias": true}')
        weights = {"linear.weight": np.ones((3, 4), np.float32), "linear.bias": np.ones(3, np.float32)}
        (folder / "2_Dense/model.safetensors").write_bytes(safetensors_bytes(weights))
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
        return folder / name

    return make_folder


def are_modules(found: Any) -> bool:
    return set(found.pooling.split("+")) <= POOLINGS.keys() and isinstance(found.normalize, bool)


WORDS = {token: i for i, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b"))}


def byte_pairs() -> dict[str, int]:
    from tokenizers import pre_tokenizers

    return {token: i for i, token in enumerate(("<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"))}


def make_byte_pairs(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "vocab.json").write_text(json.dumps(byte_pairs()))
        (folder / "merges.txt").write_text("#version: 0.2\na b\n")
        return folder / name

    return make


SETTINGS: dict[str, dict[str, Any]] = {
    "tokenizer_config.json": {
        "added_tokens_decoder": {"9": {"content": "[E]", "lstrip": True, "rstrip": False, "special": True}},
        **{"cls_token": "[CLS]", "extra_special_tokens": ["[F]"], "do_lower_case": False, "strip_accents": None},
    },
    "special_tokens_map.json": {"cls_token": {"content": "[CLS]", "normalized": False}, "sep_token": "[SEP]"},
    "added_tokens.json": {"[E]": 9, "[F]": 10},
    "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": True},
}


def make_settings(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "vocab.txt").write_text("\n".join(WORDS))
        (folder / name).write_text(json.dumps(SETTINGS[name]))
        return folder / name

    return make


def make_processor(folder: Path) -> Path:
    make_kind("ViTForImageClassification", "config.json")(folder)
    pixels = {"image_size": IMAGE, "crop_ratio": 0.875, "crop_mode": "floor", "interpolation": "bicubic"}
    values = processor_of({**pixels, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 1.0)})
    (folder / PREPROCESSOR).write_text(json.dumps(values))
    return folder / PREPROCESSOR


opened = functools.cache(open_folder)


def pixels_of(folder: Path) -> ImageOptions:
    return ImageOptions(**pixel_options(opened(folder), IMAGE, 3))


def make_tokenizer(folder: Path) -> Path:
    bert_backend(WORDS).save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def make_byte_tokenizer(folder: Path) -> Path:
    from tokenizers import models

    byte_level_backend(models.BPE(byte_pairs(), [("a", "b")])).save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def kept_tokenizer(file: Path) -> Any:
    verify(file, Expected("a tokenizer that was trained here", "delete its folder to train it again"))
    return json.loads(load_tokenizer(file).backend.to_str())


def make_kept_tokenizer(folder: Path) -> Path:
    write_whole(with_checksum(folder / "tokenizer.json", bert_backend(WORDS).to_str().encode()))
    return folder / "tokenizer.json"


def is_tokenizer(loaded: Any) -> bool:
    ids = loaded.encode(["ab a b", "\u00e9"])
    return isinstance(loaded, TextTokenizer) and all(x.max(initial=0) < loaded.vocab_size for x in ids)


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 5, 4), dtype=np.uint8)


def are_images(images: Any) -> bool:
    return images.dtype == np.uint8 and images.ndim == 3


def make_picture(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        Image.fromarray(IMAGES.repeat(4, axis=1)[0]).save(folder / f"image.{suffix}")
        return folder / f"image.{suffix}"

    return make


def picture(file: Path) -> np.ndarray:
    return np.asarray(open_image(file.read_bytes(), "it").convert("RGB"))


def make_archive(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / f"images.{suffix}"
        (folder / "0.png").write_bytes(png((1, 2, 3)))
        names = [f"train/{c}/0.png" for c in ("red", "blue")]
        if suffix == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in names:
                    archive.write(folder / "0.png", name)
        else:
            with tarfile.open(path, f"w:{suffix.partition('.')[2]}") as archive:
                for name in names:
                    archive.add(folder / "0.png", name)
        return path

    return make


def archived(file: Path) -> list[Any]:
    return [(split, label, name, read()) for split, label, name, read in image_files(file, Survey())]


def are_archived(found: Any) -> bool:
    return all(isinstance(content, bytes) and split and label and name for split, label, name, content in found)


def texts(file: Path) -> list[str]:
    return list(documents(file, None))


def are_texts(found: Any) -> bool:
    return all(isinstance(text, str) for text in found)


def labels(file: Path) -> list[Any]:
    return list(labelled_texts(file, "text", "label"))


def are_labels(found: Any) -> bool:
    return all(isinstance(text, str) and isinstance(label, str) and label.strip() for text, label in found)


def words(file: Path) -> list[Any]:
    return list(tagged_words(file))


def are_words(found: Any) -> bool:
    return all(len(row.words) == len(row.labels) and all(label.strip() for label in row.labels) for row in found)


def are_questions(found: Any) -> bool:
    return all(
        row.context[start : start + len(text)] == text
        for row in found
        for text, start in zip(row.answers, row.starts, strict=True)
    )


def are_choices(found: Any) -> bool:
    return all(len(row.contexts) == len(row.choices) > row.right >= 0 and all(row.choices) for row in found)


TAGGED = [json.dumps({"tokens": prose(i, 6).split(), "ner_tags": ["O", "B-X", "I-X"] * 2}) for i in range(4)]
LABELLED = [(prose(i, 9).replace("\n", " "), ("red", "blue")[i % 2]) for i in range(4)]
TABLE = "".join("\t".join(row) + "\n" for row in [("text", "label"), *LABELLED]).encode()
LABELLED_LINES = "".join(json.dumps(dict(zip(("text", "label"), row, strict=True))) + "\n" for row in LABELLED).encode()
JSON_LINES = "".join(json.dumps({"text": prose(i, 9)}) + "\n" for i in range(4)).encode()


def make_dataset(pattern: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        text = {"text": tfds.features.Text()}
        dataset = write_tfds(folder, "sample/1.0.0", text, {"train": [{"text": prose(i, 20)} for i in range(4)]})
        return next(dataset.glob(pattern))

    return make


def dataset(file: Path) -> Any:
    found = open_dataset(file.parent)
    records = found.records("train", dict)
    return found, [records[i] for i in range(min(len(records), 4))]


def is_dataset(loaded: Any) -> bool:
    found, examples = loaded
    return isinstance(found, Dataset) and all(isinstance(example, dict) for example in examples)


def preparation(file: Path) -> Any:
    return read_sealed_json(file, PREPARATION)


PROGRESS = {"train": {"shards": [4, 2], "bytes": 1234, "state": {"read": 6, "rest": "abc"}, "finished": True}}
BATCH = {"tokens": np.arange(12).reshape(3, 4), "weights": np.full((3, 4), np.inf, np.float32)}

READERS: dict[str, Reader] = {
    "ranges": Reader(make_ranges, ranges),
    "integer weights": Reader(make_integers("model.safetensors"), integers),
    "integer description": Reader(make_integers("integer.json"), integers),
    "analysis": Reader(make_analysis_file, load_analysis),
    "kept batch": Reader(lambda folder: keep_batch(folder, 3, BATCH), read_batch),
    "sweep": Reader(make_sweep, lambda file: load_sweep(file.parent)),
    "preparation": Reader(written("preparation.json", sealed_json(PROGRESS)), preparation),
    "kept tokenizer": Reader(make_kept_tokenizer, kept_tokenizer),
    "metrics": Reader(make_metrics, lambda file: read_metrics(file.parent), are_metrics),
    "run's config": Reader(make_run_config, lambda file: RunFolder(file.parent).read_config()),
    "recorded recipe": Reader(make_recipe, recorded),
    "run's results": Reader(make_results, lambda file: read_measurements(RunFolder(file.parent))),
    "comparison's results": Reader(make_lines, read_lines),
    "checkpoint's config": Reader(make_checkpoint("config.json"), lambda f: load_huggingface(f.parent), is_model),
    "checkpoint's weights": Reader(
        make_checkpoint("model.safetensors"), lambda f: load_huggingface(f.parent), is_model
    ),
    "checkpoint's index": Reader(
        make_kind("OPTForCausalLM", "model.safetensors.index.json", 2), lambda f: load_huggingface(f.parent), is_model
    ),
    "checkpoint's shard": Reader(
        make_kind("OPTForCausalLM", "model-00002-of-00002.safetensors", 2),
        lambda f: load_huggingface(f.parent),
        is_model,
    ),
    "checkpoint in half precision": Reader(
        make_kind("timm's ViT", "model.safetensors", dtype=ml_dtypes.bfloat16),
        lambda f: load_huggingface(f.parent),
        is_model,
    ),
    "ends of texts": Reader(
        written("generation_config.json", b'{"eos_token_id": [2, 7], "do_sample": true}'),
        lambda f: ends_of(f.parent),
        lambda ends: isinstance(ends, tuple) and all(isinstance(end, int) for end in ends),
    ),
    "image processor": Reader(make_processor, lambda f: pixels_of(f.parent), lambda found: found.image_size == IMAGE),
    "timm's config": Reader(make_kind("timm's ViT", "config.json"), lambda f: load_huggingface(f.parent), is_model),
    "modules of sentences": Reader(make_modules("modules.json"), lambda f: read_modules(f.parent), are_modules),
    "pooling of sentences": Reader(
        make_modules("1_Pooling/config.json"), lambda f: read_modules(f.parents[1]), are_modules
    ),
    "dense layer of sentences": Reader(
        make_modules("2_Dense/config.json"), lambda f: read_modules(f.parents[1]), are_modules
    ),
    "weights of a dense layer": Reader(
        make_modules("2_Dense/model.safetensors"),
        lambda f: {name: np.asarray(x) for file in dense_files(f.parents[1]).values() for name, x in file.items()},
        lambda found: all(isinstance(x, np.ndarray) for x in found.values()),
    ),
    "prompts of sentences": Reader(
        written(PROMPTS, b'{"prompts": {"query": "query: ", "other": null}, "default_prompt_name": "query"}'),
        lambda f: read_prompts(f.parent),
        lambda found: all(isinstance(text, str) for text in found.texts.values()),
    ),
    "WordPiece tokenizer": Reader(make_tokenizer, load_tokenizer, is_tokenizer),
    "byte-level tokenizer": Reader(make_byte_tokenizer, load_tokenizer, is_tokenizer),
    "vocab.txt": Reader(written("vocab.txt", "\n".join(WORDS).encode()), load_tokenizer, is_tokenizer),
    "tokenizer's settings": Reader(
        make_settings("tokenizer_config.json"), lambda f: load_tokenizer(f.parent), is_tokenizer
    ),
    "special tokens": Reader(
        make_settings("special_tokens_map.json"), lambda f: load_tokenizer(f.parent), is_tokenizer
    ),
    "added tokens": Reader(make_settings("added_tokens.json"), lambda f: load_tokenizer(f.parent), is_tokenizer),
    "lengths of sentences": Reader(
        make_settings("sentence_bert_config.json"), lambda f: load_tokenizer(f.parent), is_tokenizer
    ),
    "vocab.json": Reader(make_byte_pairs("vocab.json"), lambda f: load_tokenizer(f.parent), is_tokenizer),
    "merges.txt": Reader(make_byte_pairs("merges.txt"), lambda f: load_tokenizer(f.parent), is_tokenizer),
    "IDX": Reader(written("images", idx_bytes(IMAGES)), lambda f: read_idx(f, 3), are_images),
    "IDX, compressed": Reader(
        written("images.gz", gzip.compress(idx_bytes(IMAGES), mtime=0)), lambda f: read_idx(f, 3), are_images
    ),
    "PNG": Reader(make_picture("png"), picture, are_images),
    "JPEG": Reader(make_picture("jpg"), picture, are_images),
    "WebP": Reader(make_picture("webp"), picture, are_images),
    "BMP": Reader(make_picture("bmp"), picture, are_images),
    "zip of images": Reader(make_archive("zip"), archived, are_archived),
    "tar of images": Reader(make_archive("tar"), archived, are_archived),
    "tar.gz of images": Reader(make_archive("tar.gz"), archived, are_archived),
    "tar.xz of images": Reader(make_archive("tar.xz"), archived, are_archived),
    "labels": Reader(written("a.tsv", TABLE), labels, are_labels),
    "labels, JSON lines": Reader(written("a.jsonl", LABELLED_LINES), labels, are_labels),
    "words": Reader(lambda folder: write_words(folder / "a.conll"), words, are_words),
    "words, JSON lines": Reader(written("a.jsonl", "\n".join(TAGGED).encode()), words, are_words),
    "questions": Reader(
        lambda folder: write_questions(folder / "a.json"), lambda file: list(questions(file)), are_questions
    ),
    "choices": Reader(
        lambda folder: write_choices(folder / "a.jsonl"), lambda file: list(choice_questions(file)), are_choices
    ),
    "text": Reader(written("a.txt", prose(0, 60).encode()), texts, are_texts),
    "JSON lines": Reader(written("a.jsonl", JSON_LINES), texts, are_texts),
    "text, gzip": Reader(written("a.txt.gz", gzip.compress(prose(0, 60).encode(), mtime=0)), texts, are_texts),
    "text, xz": Reader(written("a.txt.xz", lzma.compress(prose(0, 60).encode())), texts, are_texts),
    "text, zstd": Reader(written("a.txt.zst", zstandard.compress(prose(0, 60).encode())), texts, are_texts),
    "TFDS features": Reader(make_dataset("features.json"), dataset, is_dataset),
    "TFDS description": Reader(make_dataset("dataset_info.json"), dataset, is_dataset),
    "TFDS shard": Reader(make_dataset("*array_record*"), dataset, is_dataset),
}
