"""Models by their ids, from a server on this machine that has the Hub's routes that the real client asks."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jax
import numpy as np
import pytest
from huggingface_hub import constants

from qtx.foundation.errors import QtxError
from qtx.interop import load
from qtx.interop.hub import fetch
from tests.interop.kinds import KINDS

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
MODEL, GATED = "some/model", "some/gated"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one folder as `some/model`, at every revision of `COMMITS`, and tells of `some/gated` alone."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *args, root: Path, asked: list[str]):
        self.root, self.asked = root, asked
        super().__init__(*args)

    def log_message(self, *args):
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.asked.append(path)
        model, _, rest = path.removeprefix("api/models/").partition("/revision/")
        if path.startswith("api/models/") and rest:
            if model == "some/broken":
                self.answer(500)
            elif model not in (MODEL, GATED):
                self.answer(404, X_Error_Code="RepoNotFound")
            elif rest not in COMMITS:
                self.answer(404, X_Error_Code="RevisionNotFound")
            else:
                self.answer(200, json.dumps({"id": model, "sha": COMMITS[rest], "siblings": []}).encode())
        elif path.startswith((f"api/models/{MODEL}/tree/", f"api/models/{GATED}/tree/")):
            files = [file for file in self.root.rglob("*") if file.is_file()]
            entries = [
                {
                    "type": "file",
                    "path": str(file.relative_to(self.root)),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in files
            ]
            self.answer(200, json.dumps(entries).encode(), Content_Type="application/json")
        elif path.startswith(f"{GATED}/resolve/"):
            self.answer(403, X_Error_Code="GatedRepo")
        elif path.startswith(f"{MODEL}/resolve/"):
            commit, _, name = path.removeprefix(f"{MODEL}/resolve/").partition("/")
            content = (self.root / name).read_bytes()
            self.answer(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)
        else:
            self.answer(404)

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server's folder, and what it was asked for."""
    root, asked = tmp_path / "hub", []
    root.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, root=root, asked=asked))
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    # The client reads its environment when it is imported.
    endpoint = f"http://127.0.0.1:{server.server_port}"
    url = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield root, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_is_fetched_at_a_commit_and_no_pickle_with_it(hub):
    root, asked = hub
    KINDS["BertModel"].write(root)
    others = ("pytorch_model.bin", "onnx/model.onnx", "README.md")
    for name in ("vocab.txt", "1_Pooling/config.json", *others):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    folder, commit = fetch(MODEL)
    assert commit == COMMITS["main"]
    jax.tree.map(np.testing.assert_array_equal, load(folder), load(root))
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json"}
    assert not any(path.endswith(others) for path in asked)

    assert fetch(MODEL, "v1")[1] == COMMITS["v1"]
    asked.clear()
    assert fetch(MODEL, COMMITS["v1"])[1] == COMMITS["v1"] and not asked


@pytest.mark.parametrize(
    ("model", "revision", "message"),
    [
        ("some/other", None, "cannot fetch some/other from http://127.0.0.1:.*: there is no such model, or it is priv"),
        (GATED, None, "its owner grants access: accept the terms on its page"),
        (MODEL, "v9", "cannot fetch some/model at v9 from .*: there is no such revision"),
        ("some/broken", None, "cannot be reached and was not fetched before"),
        ("a/b/c", None, "that is no id: expected organization/name"),
        (MODEL, None, "has no weights in safetensors: .* pickle runs the code"),
    ],
)
def test_what_cannot_be_fetched_gets_one_line(hub, model, revision, message):
    root, _ = hub
    (root / "config.json").write_text("{}")
    (root / "pytorch_model.bin").write_text("")
    with pytest.raises(QtxError, match=message) as error:
        fetch(model, revision)
    assert "\n" not in str(error.value)


def test_without_a_network_what_was_fetched_is_found_again(hub, monkeypatch):
    KINDS["BertModel"].write(hub[0])
    fetched = fetch(MODEL)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetch(MODEL) == fetched
    with pytest.raises(QtxError, match="check the network, and HF_ENDPOINT"):
        fetch("some/other")


@pytest.mark.slow
def test_the_environments_endpoint_holds(hub, tmp_path):
    KINDS["BertModel"].write(hub[0])
    environment = {**os.environ, "HF_ENDPOINT": constants.ENDPOINT, "HF_HOME": str(tmp_path / "home")}
    program = f"from qtx.interop.hub import fetch; print(*fetch({MODEL!r}))"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    folder, commit = done.stdout.split()
    assert commit == COMMITS["main"] and Path(folder).is_relative_to(tmp_path / "home")
