"""This module runs a Python file of the user's: a config, a recipe."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any


def run_file(file: str | Path) -> dict[str, Any]:
    """Runs a Python file and returns what it defines, by name. Unlike with `runpy.run_path`, the file's module can be
    found while it runs and after: `dataclasses` looks there for the meaning of annotations that are text.

    Raises:
      OSError, SyntaxError: if the file cannot be read, or is not Python.
      Exception: whatever the file raises.
    """
    code = compile(Path(file).read_bytes(), str(file), "exec")
    module = types.ModuleType(f"file {file}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(code, vars(module))
    return vars(module)
