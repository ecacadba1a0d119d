"""Nothing that qtx reads is run: no pickles, no evaluation of text, no module that a file names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    *("pickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib", "torch", "copyreg"),
    *("runpy", "importlib", "imp", "code", "codeop", "ctypes", "yaml", "xml"),
}
CALLS = {"eval", "exec", "compile", "__import__", "literal_eval", "run_file"}
# What is needed, and why it is safe.
ALLOWED = {
    "qtx/__init__.py": {"importlib"},  # its own module of names, when one is used
    "qtx/foundation/run_file.py": {"exec", "compile"},
    "qtx/pipeline/config_files.py": {"run_file"},  # a config file, named on the command line
    "qtx/quantization/recipes/__init__.py": {"run_file"},  # a recipe's file
    "qtx/experiment.py": {"run_file"},  # a config file, named by another
    "qtx/foundation/variants.py": {"literal_eval"},  # options of a variant that the user writes: literals alone
    "qtx/data/sources/stdlib.py": {"literal_eval"},  # Python's own sources
    "qtx/data/sources/photographs.py": {"importlib"},  # where scikit-learn's own files are
    "qtx/data/workers.py": {"cloudpickle"},  # what a process of qtx tells one that it has begun; no file holds it
    "qtx/cli/cpu_memory.py": {"ctypes"},  # the C library's way of keeping memory
    "qtx/judge/quantizer.py": {"torch"},  # runs exported models, whose weights transformers reads from safetensors
}


def uses(tree: ast.AST) -> set[str]:
    """The forbidden modules that a file imports, and the forbidden calls that it makes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {(node.module or "").partition(".")[0]} & MODULES
            found |= {alias.name for alias in node.names} & CALLS
        elif isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            # A method such as `re.compile`, or JAX's `lower().compile()`, is another thing than the builtin.
            builtin = isinstance(function, ast.Name) or name not in {"eval", "exec", "compile"}
            found |= {name} & CALLS if builtin else set()
            for keyword in node.keywords:
                refused = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                found |= {"allow_pickle"} if keyword.arg == "allow_pickle" and not refused else set()
            # NumPy's readers of files: pickles or not, they take what a header says; `storage` reads instead.
            found |= {ast.unparse(function)} & {"np.load", "np.fromfile", "np.memmap"}
    return found


def test_nothing_that_is_read_is_run():
    files = [path for folder in ("qtx", "experiments") for path in (ROOT / folder).rglob("*.py")]
    found = {str(file.relative_to(ROOT)): uses(ast.parse(file.read_text(encoding="utf-8"))) for file in files}
    assert {name: used for name, used in found.items() if used} == ALLOWED


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", {"pickle"}),
        ("from joblib import load", {"joblib"}),
        ("def f():\n    import torch.nn as nn", {"torch"}),
        ("np.load(path, allow_pickle=True)", {"allow_pickle", "np.load"}),
        ("np.savez(path, allow_pickle=flag)", {"allow_pickle"}),
        ("eval(text)", {"eval"}),
        ("ast.literal_eval(text)", {"literal_eval"}),
        ("from builtins import exec", {"exec"}),
        ("re.compile(text); np.savez(path, allow_pickle=False)", set()),
    ],
)
def test_what_is_forbidden_is_seen(source, expected):
    assert uses(ast.parse(source)) == expected
