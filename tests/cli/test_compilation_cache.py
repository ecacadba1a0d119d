"""Compiled programs are kept for the next command, where the user wants that."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

from qtx.cli.compilation_cache import folder, keep_compiled_programs

TINY = (
    *("--config=configs/tiny_bert.py", "--config.training.steps=1", "--config.training.warmup_steps=0"),
    *("--config.model.num_layers=1", "--config.data.sequence_length=32", "--config.training.eval_batches=1"),
)


def test_a_chosen_folder_is_kept():
    before = jax.config.jax_compilation_cache_dir
    keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == before != str(folder())


def test_it_is_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder().parent == tmp_path / "qtx" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder().parent == tmp_path / ".cache" / "qtx" / "compiled"


def test_where_it_cannot_be_there_is_none(monkeypatch, tmp_path):
    chosen = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", chosen)


@pytest.mark.long
def test_a_second_run_compiles_nothing(tmp_path):
    """A run that shall not keep anything, or whose cache is damaged, trains all the same."""

    def train(name, **environment):
        own = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
        own |= {"XDG_CACHE_HOME": str(tmp_path / "cache")} | environment
        command = [sys.executable, "-m", "qtx", "train", f"--workdir={tmp_path / name}", *TINY]
        ended = subprocess.run(command, env=own, capture_output=True, text=True, check=True, timeout=300)
        (told,) = (line for line in ended.stdout.splitlines() if line.startswith("trained"))
        return told, ended.stderr

    def kept():
        return sorted((tmp_path / "cache").rglob("*-cache"))

    off = train("off", JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "cache").exists()
    assert train("first") == off
    programs = {path: path.stat().st_mtime_ns for path in kept()}
    assert any("train_step" in path.name for path in programs)
    assert train("second") == off
    assert {path: path.stat().st_mtime_ns for path in kept()} == programs
    for path in programs:
        path.write_bytes(b"rubbish")
    told, warned = train("damaged")
    assert told == off[0] and "rror reading persistent compilation cache" in warned
