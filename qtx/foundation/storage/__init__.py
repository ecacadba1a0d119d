"""This package treats files as hostile: whatever a file holds, reading it gives values of the right kind or one line
that says what is wrong, in time and memory bounded by its size, and runs nothing. A file that qtx itself writes is
whole or absent, and carries a checksum that is verified when the file is read."""

from qtx.foundation.storage.array_files import (
    read_npz,
    read_safetensors,
    read_sealed_safetensors,
    sealed_npz,
    sealed_safetensors,
)
from qtx.foundation.storage.json_files import parse_json, read_json
from qtx.foundation.storage.sealing import digest, read_sealed_json, seal, sealed_json, unseal
from qtx.foundation.storage.shaped import shaped
from qtx.foundation.storage.stored_tensors import StoredTensor
from qtx.foundation.storage.whole import Expected, inside, read_bytes, verify, with_checksum, write_whole

__all__ = [
    "Expected",
    "StoredTensor",
    "digest",
    "inside",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_npz",
    "read_safetensors",
    "read_sealed_json",
    "read_sealed_safetensors",
    "seal",
    "sealed_json",
    "sealed_npz",
    "sealed_safetensors",
    "shaped",
    "unseal",
    "verify",
    "with_checksum",
    "write_whole",
]
