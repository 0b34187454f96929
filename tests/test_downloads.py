"""Weights fetched by name, from a hub and a web server on loopback: torn, absent, wrong."""

import contextlib
import hashlib
import importlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.main_cases import run_imp, run_transfer, skip_pictures, write_images

import models
from errors import InputError
from files.checkpoints import load_checkpoint, save_checkpoint
from models import build_model, download, is_fetched, weights_file

try:
    hub: Any = importlib.import_module("huggingface_hub")
except ImportError:
    hub = None
needs_hub = pytest.mark.skipif(hub is None, reason="huggingface_hub is not installed (an extra)")
COMMIT = "c" * 40
TWO_STATES = ["--mode", "std", "--epochs", "2", "--prune_epoch", "1"]


class Handler(BaseHTTPRequestHandler):
    """Files of a hub (OWNER/REPO/resolve/REVISION/FILE) and plain ones, ranges included."""

    server: Any

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        server = self.server
        server.requests.append((self.command, self.path, self.headers.get("Range")))
        content = server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", server.errors.get(self.path, "EntryNotFound"))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            torn = server.torn_at if server.torn_at and not asked else len(content)
            self.wfile.write(content[start:torn])
            server.torn_at = None

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.errors, server.requests, server.torn_at = {}, {}, [], None
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def content(tmp_path):
    path = tmp_path / "made.pt"
    save_checkpoint(path, {"conv1.weight": torch.arange(50_000.0)})
    return path.read_bytes()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch_hub"))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


# --- a URL ----------------------------------------------------------------------------------------


def test_a_url_with_its_hash_is_fetched_once_and_said(server, content):
    server.files["/a/weights.pt"] = content
    name = f"{server.address}/a/weights.pt#sha256={sha256(content)}"
    found = weights_file(name, "resnet18")
    assert found.path.read_bytes() == content
    assert found.note == f"{name} lies at {found.path}, sha256 {sha256(content)}"
    assert weights_file(name, "resnet18").path == found.path
    assert len(server.requests) == 1
    assert "conv1.weight" in load_checkpoint(found.path)


def test_two_urls_with_one_base_name_have_files_of_their_own(server, content):
    server.files |= {"/a/weights.pt": content, "/b/weights.pt": content[::-1]}
    paths = [
        weights_file(f"{server.address}/{folder}/weights.pt#sha256={sha256(data)[:8]}", "x").path
        for folder, data in (("a", content), ("b", content[::-1]))
    ]
    assert paths[0] != paths[1]
    assert [path.read_bytes() for path in paths] == [content, content[::-1]]


def test_a_file_that_changed_on_disk_is_fetched_again(server, content):
    server.files["/weights.pt"] = content
    name = f"{server.address}/weights.pt#sha256={sha256(content)}"
    path = weights_file(name, "x").path
    path.write_bytes(content[:-1])
    assert weights_file(name, "x").path.read_bytes() == content


@pytest.mark.parametrize("fault", ["another file", "torn"])
def test_another_or_a_torn_file_is_refused_and_not_kept(server, content, fault, tmp_path):
    server.files["/weights.pt"] = content
    server.torn_at = 1000 if fault == "torn" else None
    wanted = sha256(content if fault == "torn" else b"other")
    with pytest.raises(InputError, match="another file than #sha256=|download failed") as caught:
        weights_file(f"{server.address}/weights.pt#sha256={wanted}", "x")
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "torch_hub").rglob("*") if path.is_file()]


def test_what_the_server_lacks_and_no_server_are_told(server):
    name = f"{server.address}/none.pt#sha256={'0' * 64}"
    with pytest.raises(InputError, match=r"none\.pt: the server answers 404"):
        weights_file(name, "x")
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=r"download failed .*pass its path"):
        weights_file(name, "x")


@pytest.mark.parametrize(
    "end", ["", "#", "#sha256=", "#sha256=xyz", "#sha256=abc", "#md5=1234abcd"]
)
def test_a_url_without_a_hash_is_refused(end):
    with pytest.raises(InputError, match=r"end the URL in #sha256="):
        weights_file(f"https://example.org/weights.pt{end}", "x")


# --- Hugging Face's hub ---------------------------------------------------------------------------


def forget_sessions():
    """Older clients ask only once a session whether they are offline."""
    http = importlib.import_module("huggingface_hub.utils._http")
    getattr(http, "reset_sessions", lambda: None)()


@pytest.fixture
def at_hub(server, tmp_path, monkeypatch):
    settings = {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hf_cache"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    for module in ("constants", "file_download"):  # older clients have copies of some
        for name, value in settings.items():
            owner = importlib.import_module(f"huggingface_hub.{module}")
            monkeypatch.setattr(owner, name, value, raising=False)
    forget_sessions()
    yield server
    forget_sessions()


@needs_hub
def test_a_file_of_the_hub_is_fetched_and_cached(at_hub, content, monkeypatch):
    at_hub.files["/lab/robust/resolve/main/sub/weights.pt"] = content
    found = weights_file("hf:lab/robust/sub/weights.pt", "x")
    assert found.path.read_bytes() == content
    assert found.note is not None
    assert sha256(content) in found.note
    fetched = [path for command, path, _ in at_hub.requests if command == "GET"]
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_sessions()
    before = len(at_hub.requests)
    assert weights_file("hf:lab/robust/sub/weights.pt", "x").path == found.path
    assert len(at_hub.requests) == before
    assert fetched.count("/lab/robust/resolve/main/sub/weights.pt") == 1
    with pytest.raises(InputError, match="not in the cache"):
        weights_file("hf:lab/robust/other.pt", "x")


@needs_hub
def test_a_revision_of_the_hub_is_asked_for(at_hub, content):
    at_hub.files["/lab/robust/resolve/v2/weights.pt"] = content
    assert weights_file("hf:lab/robust/weights.pt@v2", "x").path.read_bytes() == content


@needs_hub
def test_a_torn_file_of_the_hub_is_resumed(at_hub, content, monkeypatch):
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    at_hub.files["/lab/robust/resolve/main/weights.pt"] = content
    at_hub.torn_at = 5000
    with contextlib.suppress(InputError):  # older clients go on in the next call only
        weights_file("hf:lab/robust/weights.pt", "x")
    path = weights_file("hf:lab/robust/weights.pt", "x").path
    assert path.read_bytes() == content
    assert any(asked == "bytes=5000-" for _, _, asked in at_hub.requests)


@needs_hub
@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("EntryNotFound", "no file weights.pt in lab/robust"),
        ("RepoNotFound", "no repository lab/robust, or a private one"),
        ("RevisionNotFound", "no revision v9"),
        ("GatedRepo", "asks for a login"),
    ],
)
def test_what_the_hub_lacks_is_told_in_one_line(at_hub, code, told):
    at_hub.errors["/lab/robust/resolve/v9/weights.pt"] = code
    with pytest.raises(InputError, match=f"--init hf:lab/robust/weights.pt@v9: .*{told}") as caught:
        weights_file("hf:lab/robust/weights.pt@v9", "x")
    assert "\n" not in str(caught.value)


@needs_hub
def test_without_a_network_it_is_told(at_hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between the client's attempts
    at_hub.shutdown()
    at_hub.server_close()
    with pytest.raises(InputError, match="not in the cache, and the hub cannot be reached"):
        weights_file("hf:lab/robust/weights.pt", "x")


@pytest.mark.parametrize(
    "name", ["hf:", "hf:weights.pt", "hf:lab/weights.pt", "hf:a/b/c@", "hf://x"]
)
def test_a_name_in_another_form_is_refused(name):
    with pytest.raises(InputError, match="must be like hf:OWNER/REPO/FILE"):
        weights_file(name, "x")


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(importlib.import_module("sys").modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="pip install huggingface_hub"):
        weights_file("hf:lab/robust/weights.pt", "x")


# --- torchvision ----------------------------------------------------------------------------------


@pytest.fixture
def torchvisions(server, content, monkeypatch):
    """The address of resnet18's weights, which the server has, as torchvision tells it."""
    name = f"resnet18-{sha256(content)[:8]}.pth"
    server.files[f"/{name}"] = content
    weights = {"IMAGENET1K_V1": SimpleNamespace(url=f"{server.address}/{name}")}
    monkeypatch.setattr(download, "get_model_weights", lambda arch: weights)
    return server, name


def test_torchvisions_weights_are_fetched_once_to_torchvisions_place(torchvisions, content):
    server, name = torchvisions
    path = weights_file("torchvision", "resnet18").path
    assert path == Path(torch.hub.get_dir()) / "checkpoints" / name
    assert path.read_bytes() == content
    assert weights_file("torchvision", "resnet18").path == path
    assert len(server.requests) == 1


def test_another_or_a_torn_file_in_torchvisions_place_is_refused_and_stays(torchvisions, content):
    server, name = torchvisions
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    path.parent.mkdir(parents=True)
    for found in (content[:-1], b"<html>", b""):
        path.write_bytes(found)
        with pytest.raises(InputError, match=r"torn, or not torchvision's file.*delete it"):
            weights_file("torchvision", "resnet18")
        assert path.read_bytes() == found
    path.unlink()
    server.files[f"/{name}"] = content[::-1]
    with pytest.raises(InputError, match="torchvision: .*another file than #sha256="):
        weights_file("torchvision", "resnet18")
    assert not path.exists()


# --- a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["imp", "omp", "transfer", "reinit"])
def test_a_run_fetches_hashes_and_tells_its_weights_once(
    server, tmp_path, capsys, monkeypatch, kind
):
    data, initial = write_images(tmp_path / "data"), tmp_path / "initial.pt"
    save_checkpoint(
        initial, build_model("resnet20s", 3, (0.5,) * 3, (0.5,) * 3, width=4).state_dict()
    )
    server.files["/weights.pt"] = initial.read_bytes()
    name = f"{server.address}/weights.pt#sha256={sha256(initial.read_bytes())}"
    skip_pictures(monkeypatch)
    run_imp(data, tmp_path / "found", "--ticket", "omp", "--init", str(initial), *TWO_STATES)
    ticket = str(tmp_path / "found" / "1-ticket.safetensors")
    capsys.readouterr()
    if kind in ("imp", "omp"):
        run_imp(data, tmp_path / "run", "--ticket", kind, "--init", name, *TWO_STATES)
    else:
        flags = ["--reinit"] if kind == "reinit" else []
        flags += ["--mode", "std", "--epochs", "1", "--tickets_file", ticket]
        run_transfer(data, tmp_path / "run", "--init", name, *flags)
    assert capsys.readouterr().out.count(" lies at ") == 1
    assert len(server.requests) == 1


# --- all ways -------------------------------------------------------------------------------------


def test_a_path_is_a_path_and_needs_nothing():
    found = weights_file("runs/imp/init.pth.tar", "x")
    assert str(found.path) == "runs/imp/init.pth.tar"
    assert found.note is None


def test_what_is_fetched_is_known_by_its_form():
    assert all(map(is_fetched, ("torchvision", "hf:a/b/c", "https://x/y", "http://x/y")))
    assert not any(map(is_fetched, ("weights.pt", "/hf/a", "torchvision.pt", "httpx.pt")))


def test_torchvision_has_no_weights_of_small_networks():
    with pytest.raises(InputError, match="torchvision has no V1 weights of wide_resnet28_10"):
        models.weights_file("torchvision", "wide_resnet28_10")
