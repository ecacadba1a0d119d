"""The files of a checkpoint folder besides its config and weights, which go with the model wherever it goes."""

from __future__ import annotations

from pathlib import Path

from qtx.data.tokenizer_settings import SENTENCE_CONFIGS
from qtx.foundation.storage import Expected, inside, parse_json, read_bytes

MODULES = "modules.json"
"""File with the list of a sentence-transformers model's modules, each with the folder of its options."""
EXPECTED = Expected("the modules of a sentence-transformers model", "save the model there with its save(folder)")
NAMES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "preprocessor_config.json", "generation_config.json"),
    *("sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "chat_template.jinja"),
    *(MODULES, *SENTENCE_CONFIGS, "config_sentence_transformers.json"),
)


def module_list(folder: Path) -> list[tuple[str, Path]]:
    """Returns the type and the folder of each module that a folder's modules.json names, in order.

    Raises:
      QtxError: if the file is broken or leads out of the folder.
    """
    # The file is a list, but `parse_json` reads only an object.
    text = b'{"modules": %b}' % read_bytes(folder / MODULES, EXPECTED)
    modules = parse_json(text, folder / MODULES, EXPECTED)["modules"]
    try:
        named = [(str(module["type"]), str(module["path"])) for module in modules]
    except (TypeError, KeyError, IndexError):
        raise EXPECTED.refusal(folder / MODULES, "not a list of modules with type and path") from None
    return [(kind, inside(folder, path, EXPECTED)) for kind, path in named]


def carried_files(folder: Path) -> list[Path]:
    """Lists a folder's files of tokenizers, image processors and sentence-transformers modules.

    Raises:
      QtxError: if modules.json is broken.
    """
    paths = [folder / name for name in NAMES]
    if (folder / MODULES).is_file():
        modules = [path for _, path in module_list(folder) if path != folder and path.is_dir()]
        paths += [path for module in modules for path in sorted(module.iterdir()) if not path.name.startswith(".")]
    return [path for path in paths if path.is_file()]


def carried(folder: Path) -> dict[str, bytes]:
    """Returns the contents of a folder's `carried_files` by their paths in the folder.

    Raises:
      QtxError: if a file cannot be read, or modules.json is broken.
    """
    expected = Expected("a file of the checkpoint", "give its folder")
    return {str(path.relative_to(folder)): read_bytes(path, expected) for path in carried_files(folder)}
