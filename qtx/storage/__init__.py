"""Files as hostile: whatever a file holds, reading it gives values of the right kind or one line that says what is
wrong, in time and memory bounded by its size, and runs nothing. What qtx itself writes is whole or absent, and carries
a checksum that is verified when it is read."""

from qtx.storage.array_files import read_npz, read_safetensors, read_sealed_safetensors, write_npz, write_safetensors
from qtx.storage.json_files import parse_json, read_json, read_sealed_json, seal, unseal, write_sealed_json
from qtx.storage.whole import Expected, read_bytes, write_whole

__all__ = [
    "Expected",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_npz",
    "read_safetensors",
    "read_sealed_json",
    "read_sealed_safetensors",
    "seal",
    "unseal",
    "write_npz",
    "write_safetensors",
    "write_sealed_json",
    "write_whole",
]
