"""The tokens that end a text, as a checkpoint folder names them."""

from __future__ import annotations

from pathlib import Path

from qtx.foundation.storage import Expected, read_json

FILES = ("generation_config.json", "config.json")
KEY = "eos_token_id"


def ends_of(folder: Path) -> tuple[int, ...]:
    """Returns the tokens after which `transformers` stops to generate: those of generation_config.json, or else of
    config.json; empty if none is named.

    Raises:
      QtxError: if a file is broken, or names something else than tokens.
    """
    for file in (folder / name for name in FILES):
        expected = Expected("options of a model", f"give {KEY} there a token's number, or a list of them")
        named = read_json(file, expected).get(KEY) if file.is_file() else None
        tokens = named if isinstance(named, list) else [] if named is None else [named]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
            raise expected.refusal(file, f"{KEY} is {str(named)[:100]}")
        if tokens:
            return tuple(tokens)
    return ()
