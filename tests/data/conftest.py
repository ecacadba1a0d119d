"""Folders of small inputs, fresh for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from .samples import write_images, write_texts


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images")
