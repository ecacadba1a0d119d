"""Loading a tokenizer from the files of its vocabulary and the settings beside them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from qtx.data.templates import Template
from qtx.data.tokenization import TOKENIZER, TextTokenizer, bert_backend, byte_level_backend, settings_of
from qtx.data.tokenizer_kinds import (
    BERT,
    GPT2,
    LLAMA,
    MPNET,
    OPT,
    ROBERTA,
    ROLES,
    Kind,
    format_kind,
    roles_of,
    template_of,
)
from qtx.data.tokenizer_settings import Settings, read_settings
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, parse_json, read_bytes

EXPECTED = Expected("a tokenizer", "give tokenizer.json, vocab.txt, or vocab.json with merges.txt beside it")
KNOWN = (TOKENIZER, "vocab.txt", "vocab.json")
PROBES = ("A word, 7 \u00e9 \u4e2d\u6587\n", "")
"""Texts that every tokenizer can encode: a tokenizer that cannot is refused when it is loaded, not amid the data."""


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Loads a tokenizer from a file or a folder, as transformers' `AutoTokenizer` does.

    The special tokens around a text are those of `tokenizer.json`, or else those of its class in transformers, by the
    names in `tokenizer_config.json` and `special_tokens_map.json` beside it. A `tokenizer.json` without a template or
    settings beside it was trained here. The embedding table is that of the model in `config.json`.

    Args:
      path: `tokenizer.json`; `vocab.txt` (BERT WordPiece, line number = id); `vocab.json` with `merges.txt` beside it
        (GPT-2's byte-level BPE); or a folder holding one of these, tried in this order.

    The file's own truncation and padding of texts are switched off: documents are cut and packed elsewhere.

    Raises:
      QtxError: if there is no such file, this or one beside it cannot be read, or the tokenizer cannot encode.
    """
    path = Path(path)
    if path.is_dir():
        found = next((path / name for name in KNOWN if (path / name).is_file()), None)
        if found is None:
            raise QtxError(
                f"tokenizer folder {path} has none of {', '.join(KNOWN)}: save {TOKENIZER} there with transformers, "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        path = found
    if not path.is_file():
        raise QtxError(f"no tokenizer {path}: expected wordpiece, bpe (to train), or a path to {', '.join(KNOWN)}")
    settings = read_settings(path.parent)
    content = read_bytes(path, EXPECTED)
    try:
        backend, content, text = _vocabulary(path, content, settings)
        settings = _completed_settings(backend, settings)
        backend.encode_batch_fast(list(PROBES), add_special_tokens=False)
    except QtxError:
        raise
    except BaseException as error:  # the library raises bare Exception for a malformed file, and panics
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise EXPECTED.refusal(path, error) from None
    # Every entry takes at least a byte of the file; a large id must not make the arrays indexed by id any larger.
    if max(backend.get_vocab().values(), default=0) >= len(content):
        raise EXPECTED.refusal(path, "it has ids beyond its number of entries")
    try:
        alone = text is not None and not settings.found and settings.kind is None
        if alone and backend.post_processor is None:
            return TextTokenizer.trained(backend, text)
        return _completed(backend, text, settings, alone)
    except QtxError as error:
        raise QtxError(f"{path}: {error}") from None


def _vocabulary(path: Path, content: bytes, settings: Settings) -> tuple[Tokenizer, bytes, str | None]:
    """Returns the tokenizer of a file, all bytes that were read, and the text of a `tokenizer.json`."""
    if path.name != TOKENIZER and settings.class_name and settings.kind is None:
        # BertJapaneseTokenizer has a vocab.txt too, and cuts words otherwise.
        raise QtxError(
            f"{path} is the vocabulary of a {settings.class_name}, of which qtx reads tokenizer.json alone: save that "
            "there with transformers"
        )
    if path.suffix == ".txt":
        return _word_pieces(content, path, settings), content, None
    if path.name == "vocab.json":
        merges = read_bytes(path.parent / "merges.txt", EXPECTED)
        return _byte_pairs(parse_json(content, path, EXPECTED), merges, settings), content + merges, None
    parse_json(content, path, EXPECTED)
    text = content.decode("utf-8")
    return Tokenizer.from_str(text), content, text


def _word_pieces(content: bytes, path: Path, settings: Settings) -> Tokenizer:
    lines = _lines(content)
    tokens = lines[:-1] if lines[-1] == "" else lines
    named = settings.tokens.get("unk")
    unknown = "[UNK]" if named is None else named.content
    if len(set(tokens)) < len(tokens) or unknown not in tokens:
        raise QtxError(f"{path} is not a BERT vocabulary: expected one distinct token a line, {unknown} among them")
    # As BertTokenizer does; the vocabulary decides if there are no settings.
    lowercase = settings.flag("do_lower_case")
    return bert_backend(
        {token: i for i, token in enumerate(tokens)},
        unknown,
        lowercase=True if lowercase is None and settings.found else lowercase,
        strip_accents=settings.flag("strip_accents"),
        chinese=settings.flag("tokenize_chinese_chars") is not False,
    )


def _byte_pairs(vocabulary: dict[str, int], merges: bytes, settings: Settings) -> Tokenizer:
    lines = (line.split(" ") for line in _lines(merges) if line and not line.startswith("#version"))
    model = models.BPE(vocabulary, [(left, right) for left, right in lines])
    return byte_level_backend(model, bool(settings.flag("add_prefix_space")))


def _lines(content: bytes) -> list[str]:
    # Never splitlines, which also cuts at characters that tokens have.
    return content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _completed(backend: Tokenizer, text: str | None, settings: Settings, alone: bool) -> TextTokenizer:
    """Completes a tokenizer by the settings beside it; `alone`: there are none, and its file is taken as it is."""
    kind = _kind(backend, settings)
    changed = [] if alone else [_told_options(backend, kind, settings), _told_tokens(backend, kind, settings)]
    roles = roles_of(backend, kind, settings.tokens)
    backend.encode_special_tokens = bool(settings.flag("split_special_tokens"))
    if backend.post_processor is None:
        begins = settings.flag("add_bos_token")
        bos = "bos" in roles and (kind.begins if begins is None else begins)
        layouts = kind.layouts(bos, "eos" in roles and bool(settings.flag("add_eos_token")))
        template = template_of(backend, roles, layouts)
        backend.post_processor = template.processor(backend.id_to_token)
        changed.append(True)
    else:
        template = Template.of(backend.post_processor)
    files = {TOKENIZER: backend.to_str(pretty=True) if text is None or any(changed) else text}
    from_left = str(settings.options.get("truncation_side")).lower() == "left"
    tokenizer = TextTokenizer(backend, template, roles, files, settings.rows, from_left, settings.lower)
    return dataclasses.replace(tokenizer, files=files | ({} if _says_all(tokenizer) else settings_of(tokenizer)))


def _completed_settings(backend: Tokenizer, settings: Settings) -> Settings:
    """Adds the truncation side and the padding token of `tokenizer.json` to the settings, and turns truncation and
    padding off in the tokenizer: they would cut documents, or pad them to any length."""
    options, tokens = dict(settings.options), dict(settings.tokens)
    if backend.truncation is not None:
        options.setdefault("truncation_side", backend.truncation["direction"])
    if backend.padding is not None:
        tokens.setdefault("pad", AddedToken(backend.padding["pad_token"], special=True))
    backend.no_truncation()
    backend.no_padding()
    return dataclasses.replace(settings, options=options, tokens=tokens)


def _says_all(tokenizer: TextTokenizer) -> bool:
    """Says whether `tokenizer.json` alone would be read as the same tokenizer."""
    other = tokenizer.lower or tokenizer.from_left or tokenizer.backend.encode_special_tokens
    return not other and tokenizer.roles == roles_of(tokenizer.backend, format_kind(tokenizer.backend), {})


def _kind(backend: Tokenizer, settings: Settings) -> Kind:
    """Returns the class that the settings tell, unless the vocabulary has none of its tokens and no others are named;
    or else the class whose template has the named tokens."""
    usual, told = format_kind(backend), settings.kind
    named = {role for role in ("bos", "eos", "cls", "sep") if settings.tokens.get(role) is not None}
    has_any = told is None or any(backend.token_to_id(token) is not None for token in told.tokens.values())
    if told is not None and (named or has_any or not told.tokens):
        return told
    if not named:
        return usual
    framed = BERT if usual is BERT else ROBERTA
    return dataclasses.replace(framed if {"cls", "sep"} <= named else LLAMA, tokens={})


def _told_options(backend: Tokenizer, kind: Kind, settings: Settings) -> bool:
    """Applies the settings' options of case and spaces, which depend on the tokenizer's class, as transformers does;
    returns whether they changed anything."""
    before, after = backend.normalizer, backend.pre_tokenizer
    if kind in (BERT, MPNET) and isinstance(before, normalizers.BertNormalizer):
        told = {
            "lowercase": settings.flag("do_lower_case"),
            "handle_chinese_chars": settings.flag("tokenize_chinese_chars"),
            "strip_accents": settings.flag("strip_accents"),
        }
        there = {name: getattr(before, name) for name in ("clean_text", *told)}
        wanted = there | {name: value for name, value in told.items() if value is not None}
        backend.normalizer = normalizers.BertNormalizer(**wanted)
        return wanted != there
    spaced = settings.flag("add_prefix_space")
    if kind in (GPT2, OPT, ROBERTA) and isinstance(after, pre_tokenizers.ByteLevel) and spaced is not None:
        changed = after.add_prefix_space != spaced
        after.add_prefix_space = spaced
        backend.pre_tokenizer = after
        return changed
    return False


def _told_tokens(backend: Tokenizer, kind: Kind, settings: Settings) -> bool:
    """Adds the tokens that are matched in a text as a whole, in the order of transformers, which decides the ids of
    those that the vocabulary lacks; returns whether there were any."""
    there = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    usual = [
        AddedToken(token, special=True)
        for role, token in kind.tokens.items()
        if role not in settings.tokens and backend.token_to_id(token) is not None
    ]
    special = [*(settings.tokens[role] for role in ROLES if role in settings.tokens), *usual, *settings.extra]
    wanted = {token.content: token for token in settings.listed if repr(token) != repr(there.get(token.content))}
    known = there.keys() | wanted.keys()
    wanted |= {token.content: token for token in special if token is not None and token.content not in known}
    backend.add_tokens([token for name, token in wanted.items() if name])
    return bool(wanted)
