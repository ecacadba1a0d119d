"""What is in a folder, and which files a path or a glob names: links, hidden files, odd names, circles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qtx.data.listing import entries, expand, hidden, printable
from qtx.data.notes import left_out, noted
from qtx.foundation.errors import QtxError


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def names(folder: Path, **options) -> list[str]:
    return [name for name, _ in entries(folder, **options)]


def test_hidden_files_are_left_out_and_the_order_is_that_of_the_parts(tmp_path):
    write(
        tmp_path, "b/2.txt", "b/10.txt", "b-c/1.txt", "a.txt", ".hidden", ".git/x.txt", "b/._2.txt", "__MACOSX/b/1.txt"
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "only hidden").mkdir()
    (tmp_path / "only hidden" / ".DS_Store").write_text("x")
    found = names(tmp_path)
    assert found == ["a.txt", "b/10.txt", "b/2.txt", "b-c/1.txt", "empty/", "only hidden/"]
    assert names(tmp_path, depth=1) == ["a.txt"]
    folder = tmp_path / ".begun in a hidden one"
    write(folder, "1.txt")
    assert names(folder) == ["1.txt"]


def test_links_are_followed_once(tmp_path):
    """A linked folder, a link to a file, a circle, one that leads nowhere, and two folders that link to each other."""
    write(tmp_path, "elsewhere/1.txt", "root/a/2.txt", "root/b/3.txt")
    root = tmp_path / "root"
    links = {
        "linked": "../elsewhere",
        "again": "../elsewhere",
        "4.txt": "a/2.txt",
        "a/up": "..",
        "gone": "nowhere",
        "top": "/",
    }
    for name, target in {**links, "a/to_b": "../b", "b/to_a": "../a"}.items():
        (root / name).symlink_to(target)
    assert names(root) == ["4.txt", "a/to_b/3.txt", "again/1.txt", "gone"]
    # The same files, by the two folders above each.
    by_class = names(root, named=2)
    assert {"a/2.txt", "b/3.txt", "again/1.txt", "linked/1.txt", "gone"} < set(by_class) and len(by_class) < 20


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(QtxError, match="cannot read folder .*: Permission denied"):
        names(tmp_path)


def test_an_existing_path_is_no_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(
        tmp_path,
        "texts [2024]/a.txt",
        "texts [2024]/b [1].txt",
        "texts [2024]/b1.txt",
        "texts 2/c.txt",
        "*.txt",
        "d.txt",
    )
    for given, wanted in {
        "texts [2024]/a.txt": ["texts [2024]/a.txt"],
        "texts [2024]/*": ["texts [2024]/a.txt", "texts [2024]/b [1].txt", "texts [2024]/b1.txt"],
        "texts [2024]/b [1].txt": ["texts [2024]/b [1].txt"],
        "texts [0-9]/*.txt": ["texts 2/c.txt"],
        "*/b [1].txt": ["texts [2024]/b [1].txt"],
        "*.txt": ["*.txt"],
        "?.txt": ["*.txt", "d.txt"],
        "~/d.txt": [str(tmp_path / "d.txt")],
        "./**/c.txt": ["texts 2/c.txt"],
    }.items():
        assert expand([given]) == wanted, given


def test_globs_leave_out_hidden_files_and_take_each_file_once(tmp_path):
    write(tmp_path, "a/1.txt", "a/.1.txt", "a/__MACOSX/2.txt", "a/b/c/3.txt", "4.txt")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "z.txt").symlink_to(tmp_path / "4.txt")
    root = f"{tmp_path}/"
    assert (
        expand([f"{root}**"]) == expand([f"{root}**/*.txt"]) == [f"{root}4.txt", f"{root}a/1.txt", f"{root}a/b/c/3.txt"]
    )
    assert expand([f"{root}*/*.txt", f"{root}a/.1.txt", f"{root}a/1.txt"]) == [f"{root}a/.1.txt", f"{root}a/1.txt"]
    assert expand([f"{root}a/**/3.txt"]) == [f"{root}a/b/c/3.txt"]
    (tmp_path / "0").symlink_to(tmp_path / "a")
    assert expand([f"{root}a*/1.txt"]) == [f"{root}a/1.txt"] and expand([f"{root}?/1.txt"]) == [f"{root}0/1.txt"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.txt", "there is no file .*none.txt"),
        ("a/none/1.txt", "there is no file .*a/none/1.txt"),
        ("a/*.md", r"no file matches .*: nothing in .*/a is called '\*.md'"),
        ("none/*.txt", r"nothing in .* is called 'none/\*.txt'"),
        ("a", r"/a is a folder: expected files; all below it are '.*/a/\*\*'"),
        ("a/gone.txt", "gone.txt is a link to nowhere, which is not there"),
        ("a/g*.txt", "gone.txt is a link to nowhere, which is not there"),
        ("lost/1.txt", "lost is a link to nowhere, which is not there"),
        ("1.txt/*.txt", r"no file matches"),
        ("pipe", "pipe is no file that can be read to its end"),
    ],
)
def test_what_names_no_file_is_told(tmp_path, given, message):
    write(tmp_path, "a/1.txt", "1.txt")
    (tmp_path / "a/gone.txt").symlink_to("nowhere")
    (tmp_path / "lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(QtxError, match=message):
        expand([f"{tmp_path}/{given}"])


def test_a_home_that_nobody_knows():
    with pytest.raises(QtxError, match="what ~ stands for in ~nobody-of-that-name/x is not known: set HOME"):
        expand(["~nobody-of-that-name/x"])


def test_names_and_counts_in_words():
    assert [hidden(name) for name in ("a/b", "a/.b/c", "./a", "../a", "__MACOSX/a")] == [
        False,
        True,
        False,
        False,
        True,
    ]
    assert printable(os.fsdecode(b"caf\xe9 \xc3\xa9")) == "caf\\xe9 \u00e9"
    assert left_out({}) == noted({"copies": 0}) == ""
    assert left_out({".csv": 1}) == "1 file left out: 1 .csv"
    assert left_out({".csv": 1, ".webp": 1200}) == "1,201 files left out: 1,200 .webp, 1 .csv"
    assert left_out({f".{i}": 9 - i for i in range(8)}).endswith("4 .5, ...")
    assert noted({"halves": 3, "copies": 2}) == (
        "held-out texts that are in training too: 2; halves of surrogate pairs that became U+FFFD: 3"
    )
