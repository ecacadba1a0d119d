"""The patient in every clone, `builtin:minilm-2l`: the first two layers of a published BERT encoder that is really ill.

    python -m experiments.cut_patient FOLDER_OF_ALL_MINILM_L6_V2 qtx/builtin/minilm-2l

Cuts sentence-transformers' all-MiniLM-L6-v2 to what 9 MB hold: two of its six layers, its weights in float16, and of
its 30,522 word pieces the specials, the single characters that Latin script falls back to, and those that its own
tokenizer makes most often of the built-in corpus (of the running Python: the package's were counted by Python 3.11.7).
The rest, the pooler included, stays as it is. The same folder and Python give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from experiments.bad_input import told_in_a_line
from qtx.data import load_tokenizer
from qtx.data.sources.stdlib import stdlib_documents
from qtx.foundation.storage import Expected, read_bytes, read_json, read_safetensors, write_whole

LAYERS = 2
FREQUENT = 1200
"""With the single characters, as many as fit in 9 MB."""
EMBEDDING = "embeddings.word_embeddings.weight"
LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
UNCHANGED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
EXPECTED = Expected("a file of all-MiniLM-L6-v2", "give the folder of sentence-transformers/all-MiniLM-L6-v2")


def is_fallback(piece: str) -> bool:
    """Whether a piece is one character, `x` or `##x`, of ASCII, Latin script or general punctuation: the Unicode blocks
    before Greek, and U+2000 to U+206F."""
    character = piece.removeprefix("##")
    return len(character) == 1 and (ord(character) < 0x370 or 0x2000 <= ord(character) < 0x2070)


def kept_pieces(original: Path) -> list[str]:
    """The pieces that stay, in the original's order."""
    tokenizer = load_tokenizer(original / "tokenizer.json")
    ids = np.concatenate(tokenizer.encode([document.text for document in stdlib_documents()]))
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)
    frequent = set(np.argsort(-counts, kind="stable")[:FREQUENT].tolist())
    pieces = enumerate(tokenizer.tokens(range(tokenizer.vocab_size)))
    return [piece for i, piece in pieces if i in frequent or tokenizer.is_special[i] or is_fallback(piece)]


def cut(original: Path, pieces: Sequence[str]) -> dict[str, bytes]:
    """The files of the cut checkpoint, by name.

    Args:
      original: the folder of the whole one.
      pieces: of its vocabulary, those to keep; their new ids are their places here.

    Raises:
      QtxError: if a file is missing or not what it should be.
    """
    tokenizer = read_json(original / "tokenizer.json", EXPECTED)
    old_ids, new_ids = tokenizer["model"]["vocab"], {piece: i for i, piece in enumerate(pieces)}
    tokenizer["model"]["vocab"] = new_ids
    for token in tokenizer["added_tokens"]:
        token["id"] = new_ids[token["content"]]
    for token in tokenizer["post_processor"]["special_tokens"].values():
        token["ids"] = [new_ids[piece] for piece in token["tokens"]]

    stored = read_safetensors(original / "model.safetensors", EXPECTED)
    kept = [name for name in stored if not (layer := LAYER.match(name)) or int(layer[1]) < LAYERS]
    tensors = {name: np.asarray(stored[name]) for name in kept}
    tensors[EMBEDDING] = tensors[EMBEDDING][[old_ids[piece] for piece in pieces]]
    tensors = {name: x.astype(np.float16) if x.dtype == np.float32 else x for name, x in tensors.items()}

    config = read_json(original / "config.json", EXPECTED) | {"num_hidden_layers": LAYERS, "vocab_size": len(pieces)}
    return {
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "model.safetensors": save(tensors, {"format": "pt"}),
        "vocab.txt": "".join(f"{piece}\n" for piece in pieces).encode(),
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode(),
        **{name: read_bytes(original / name, EXPECTED) for name in UNCHANGED},
    }


@told_in_a_line("cut_patient")
def main(arguments: list[str] | None = None) -> int:
    """Writes the cut checkpoint; 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", type=Path, help="folder of sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("folder", type=Path, help="where to write the cut one")
    options = parser.parse_args(arguments)
    files = cut(options.original, kept_pieces(options.original))
    write_whole({options.folder / name: content for name, content in files.items()})
    print(f"{options.folder}: {sum(map(len, files.values())) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
