"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Read by JAX when it is first imported: eight CPU devices, so that sharding is tested on any machine.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

SHARED = Path(__file__).parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and images for development; tests of it skip where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}")
    return folder


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of what the paper's official implementation computes; tests of it skip where it is absent."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"no reference models at {folder}")
    return folder
