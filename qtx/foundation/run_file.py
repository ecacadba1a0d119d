"""Running a Python file of the user's: a config, a recipe."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any


def run_file(file: str | Path) -> dict[str, Any]:
    """What a Python file defines, by name. Unlike `runpy.run_path`'s, its module can be found while it runs and after:
    `dataclasses` looks there for what annotations mean where they are text.

    Raises:
      OSError, SyntaxError: if the file cannot be read, or is not Python.
      Exception: whatever it raises.
    """
    code = compile(Path(file).read_bytes(), str(file), "exec")
    module = types.ModuleType(f"file {file}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module
    exec(code, vars(module))
    return vars(module)
