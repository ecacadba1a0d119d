"""Whole files: two that write the same one at once each find it whole."""

from __future__ import annotations

import os
import threading

from qtx.foundation.storage import Expected, parse_json, whole, write_whole


def test_two_threads_write_the_same_file_at_once(tmp_path, monkeypatch):
    file, both_written = tmp_path / "file", threading.Barrier(2)

    def replace(source, target):
        both_written.wait(timeout=30)  # neither is renamed before both are written
        os.rename(source, target)

    monkeypatch.setattr(whole.os, "replace", replace)
    errors: list[BaseException] = []

    def write(content):
        try:
            write_whole({file: content})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in (b"one", b"other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert file.read_bytes() in (b"one", b"other") and list(tmp_path.iterdir()) == [file]


def test_a_byte_order_mark_before_json_is_no_text():
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "it", Expected("an object", "write one")) == {"a": 1}
