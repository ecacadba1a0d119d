"""What a wheel installs, used where there is no clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGED = ("qtx", "configs", "pyproject.toml", "README.md", "LICENSE")
LOOK_AROUND = """
import qtx
from qtx.builtin import builtin_checkpoint
from qtx.pipeline.config_files import SHIPPED_CONFIGS, load_config_file

print(qtx.__file__)
print(*sorted(file.stem for file in SHIPPED_CONFIGS.glob("*.py") if load_config_file(file.stem)))
patient = builtin_checkpoint("minilm-2l")
print(*sorted(str(file.relative_to(patient)) for file in patient.rglob("*") if file.is_file()))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder for `PYTHONPATH`: an unpacked wheel, of sources that building does not write beside."""
    folder = tmp_path_factory.mktemp("installed")
    (folder / "sources").mkdir()
    for name in PACKAGED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "sources" / name, symlinks=True)
        else:
            shutil.copy(ROOT / name, folder / "sources" / name)
    build = ["wheel", ".", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"]
    subprocess.run([sys.executable, "-m", "pip", *build], cwd=folder / "sources", check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, folder: Path, *arguments: str) -> list[str]:
    """The lines that Python prints with those arguments in a folder."""
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.slow
def test_configs_and_builtin_checkpoints_come_along(site, tmp_path):
    package, configs, files = run(site, tmp_path, "-c", LOOK_AROUND)
    assert Path(package).parent == site / "qtx"
    assert configs.split() == sorted(file.stem for file in (ROOT / "configs").glob("*.py"))
    patient = ROOT / "qtx" / "builtin" / "minilm-2l"
    assert files.split() == sorted(str(file.relative_to(patient)) for file in patient.rglob("*") if file.is_file())


@pytest.mark.slow
def test_a_shipped_config_trains_outside_of_a_clone(site, tmp_path):
    lines = run(site, tmp_path, "-m", "qtx", "train", "--config=demo:softmax:smoke", "--workdir=run")
    assert lines[-1] == "next: qtx quantize --workdir=run"
    assert (tmp_path / "run" / "metrics.jsonl").is_file()


@pytest.mark.slow
def test_a_builtin_checkpoint_is_imported_outside_of_a_clone(site, tmp_path):
    lines = run(site, tmp_path, "-m", "qtx", "import", "builtin:minilm-2l", "--workdir=run")
    assert lines[-1].startswith("imported builtin:minilm-2l")
    assert (tmp_path / "run" / "imported" / "model.safetensors").is_file()
