"""Small inputs of every kind, written to a folder."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from qtx.data import TextTokenizer

WORDS = (
    "attention head token layer model value query key gate softmax clip range outlier kurtosis norm residual stream "
    "learn train test batch step loss gradient scale shift bit integer weight activation quantize calibrate measure"
).split()


def prose(seed: int, count: int) -> str:
    """`count` words of made-up text with sentences and lines."""
    rng = np.random.default_rng(seed)
    words = rng.choice(WORDS, size=count).tolist()
    words[7::11] = [word + ".\n" for word in words[7::11]]
    return " ".join(words) + "\n"


def save(tokenizer: TextTokenizer, folder: Path) -> None:
    """Writes the files that a run keeps of a tokenizer."""
    for name, text in tokenizer.files.items():
        (folder / name).write_text(text, encoding="utf-8")


def write_texts(folder: Path) -> Path:
    """Ten text files of 400 words."""
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(prose(i, 400), encoding="utf-8")
    return folder


def write_labels(file: Path) -> Path:
    """60 texts with labels `blue` and `red`, as JSON lines."""
    rows = [{"text": prose(i, 5 + i % 20), "label": ("red", "blue")[i % 2]} for i in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_words(file: Path) -> Path:
    """60 sentences of words, of which those of more than six letters are entities."""
    rows = [[(word, "B-LONG" if len(word) > 6 else "O") for word in prose(i, 5 + i % 9).split()] for i in range(60)]
    file.write_text("\n\n".join("\n".join(map(" ".join, row)) for row in rows), encoding="utf-8")
    return file


def write_questions(file: Path) -> Path:
    """60 questions about 30 texts."""
    paragraphs = []
    for i in range(30):
        text = prose(i, 5 + i)
        first, last = text.split()[0], text.split()[-1]
        answers = (first, 0), (last, text.rindex(last))
        qas = [
            {"question": name, "answers": [{"text": word, "answer_start": start}]}
            for name, (word, start) in zip(("learn?", "train?"), answers, strict=True)
        ]
        paragraphs.append({"context": text, "qas": qas})
    file.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return file


def write_choices(file: Path) -> Path:
    """60 questions with two to four choices."""
    rows = [
        {"query": prose(i, 8), "choices": [prose(100 * i + j, 3 + j) for j in range(2 + i % 3)], "gold": i % 2}
        for i in range(60)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_idx_folder(folder: Path, compress: bool) -> dict[str, np.ndarray]:
    """30 training and 14 test images of 6 x 6 pixels with labels 0 to 2; returns the arrays by file name."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 30), ("t10k", 14)):
        arrays[f"{split}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = np.arange(count, dtype=np.uint8) % 3
    for name, array in arrays.items():
        content = idx_bytes(array)
        (folder / (name + ".gz" * compress)).write_bytes(gzip.compress(content) if compress else content)
    return arrays


def png(color: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> bytes:
    """A plain image with one bright corner pixel."""
    image = Image.new("RGB", size, color)
    image.putpixel((0, 0), (255, 255, 255))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def write_images(root: Path) -> Path:
    """`train` with 2 x 6 images and `val` with 2 x 3, classes `blue` and `red`, and a file to ignore."""
    for split, count in (("train", 6), ("val", 3)):
        for class_name in ("red", "blue"):
            (root / split / class_name).mkdir(parents=True)
            for i in range(count):
                shade = 40 + 20 * i
                color = (shade, 0, 10) if class_name == "red" else (0, 10, shade)
                (root / split / class_name / f"{i}.png").write_bytes(png(color))
    (root / "classes.txt").write_text("red\nblue\n")
    return root


def write_archive(root: Path) -> Path:
    """The folder as a `.tar.xz` beside it."""
    path = root.with_suffix(".tar.xz")
    with tarfile.open(path, "w:xz") as archive:
        archive.add(root, arcname=".")
    return path
