"""Image files: their kinds, told by the first bytes, and images of every mode as 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from qtx.foundation.errors import QtxError

DECODED = ("JPEG", "PNG", "WEBP", "BMP")
"""Pillow's names of the formats that are decoded: some of the others run programs, and some hold no single image."""
EXPECTED = "expected JPEG, PNG, WebP or BMP"
SIGNATURES = {
    b"\xff\xd8\xff": "a JPEG",
    b"\x89PNG\r\n\x1a\n": "a PNG",
    b"BM": "a BMP",
    b"GIF8": "a GIF",
    b"II*\x00": "a TIFF",
    b"MM\x00*": "a TIFF",
    b"\x00\x00\x01\x00": "an icon (ICO)",
    b"\x00\x00\x00\x0cjP  ": "a JPEG 2000",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
    b"%!PS": "PostScript",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip file",
    b"\x00\x05\x16\x07": "a file of macOS's attributes (AppleDouble)",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a pointer of Git LFS, whose content `git lfs pull` fetches",
}
PAGES = {"<!doctype html": "an HTML page", "<html": "an HTML page", "<svg": "an SVG", "<?xml": "XML"}
TRANSPARENT = ("LA", "PA", "RGBA", "RGBa", "La")
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes without transparency whose values fit into 8 bits."""


def file_kind(content: bytes) -> str | None:
    """Says what a file is by its first bytes, e.g. `"a GIF"`; None if the kind is not known."""
    if not content:
        return "empty"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "a WebP"
    if content[4:8] == b"ftyp":
        return f"an image or a film of the kind {content[8:12].decode('ascii', 'replace')!r} (AVIF, HEIC or MP4)"
    if content[128:132] == b"DICM":
        return "a DICOM"
    found = next((kind for signature, kind in SIGNATURES.items() if content.startswith(signature)), None)
    text = content[:200].decode("utf-8", "replace").lstrip("\ufeff \t\r\n").lower()
    return found or next((kind for beginning, kind in PAGES.items() if text.startswith(beginning)), None)


def eight_bits(image: Image.Image, what: str, channels: int) -> np.ndarray:
    """Returns the pixels of a decoded image, uint8 `[H, W, C]`: grey (ITU-R 601 luma) for one channel, RGB for three.

    A grey value v of 16 bits becomes v / 257, rounded. Transparency is left out, as torchvision and transformers do.

    Args:
      image: the image, in any of Pillow's modes.
      what: the image's name in messages.
      channels: C, 1 or 3.

    Raises:
      QtxError: for a mode whose values do not fit into 8 bits, or a picture that is in the transparency alone.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise QtxError(
                f"{what} has mode {image.mode} and values from {values.min()} to {values.max()}: expected 8 or 16 bits"
            )
        image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    elif image.mode in TRANSPARENT or (image.mode == "P" and "transparency" in image.info):
        transparent = image if image.mode in ("LA", "RGBA") else image.convert("LA" if image.mode == "La" else "RGBA")
        image = transparent.convert("L" if transparent.mode == "LA" else "RGB")
        lowest, highest = transparent.getchannel("A").getextrema()
        if lowest != highest and all(len(set(channel.getextrema())) == 1 for channel in image.split()):
            raise QtxError(
                f"{what} has mode {transparent.mode} and one colour throughout, its picture is in the transparency "
                "alone: lay it on a background first"
            )
    elif image.mode not in PLAIN:
        raise QtxError(f"{what} has mode {image.mode}: expected 8 or 16 bits of grey, or 8 bits of colour")
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels
