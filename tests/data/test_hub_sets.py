"""The hub: found, unknown, closed, silent or out of reach. A server on this machine plays its part."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import huggingface_hub
import pytest
from image_files import NAMES, numbers, parquet_set, pngs, table, write

from robustdeq.data import images, load, sources

OWNER = "owner/numbered"


@pytest.fixture
def answer(monkeypatch):
    """Lets the hub answer every request with a status, a code and JSON, after a delay."""
    reply = {"status": 200, "code": "", "json": {}, "delay": 0.0, "asked": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            reply["asked"] += 1
            time.sleep(reply["delay"])
            body = json.dumps(reply["json"]).encode()
            self.send_response(reply["status"])
            self.send_header("X-Error-Code", reply["code"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # who asked has reply up
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield reply
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")


def message(name, **options) -> str:
    with pytest.raises(ValueError) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["uoft-cs/cifar10", "imagenet-1k"])
def test_without_a_network_the_error_is_clear_and_comes_at_once(no_network, name, streaming):
    import datasets.load  # noqa: F401  what is imported is not timed

    began = time.perf_counter()
    text = message(name, streaming=streaming)
    assert time.perf_counter() - began < 3
    assert f"{sources.SHORT.get(name, name)}: no such folder" in text and "the hub cannot be reached" in text


def test_a_hub_that_does_not_answer_is_reply_up(answer, monkeypatch):
    answer["delay"] = 2.0
    monkeypatch.setattr(sources, "TIMEOUT", 0.2)
    began = time.perf_counter()
    assert "cannot be reached" in message(OWNER)
    assert time.perf_counter() - began < 1.5


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "no such data set on the hub"),
        (403, "GatedRepo", "asks for a login"),
        (503, "", "cannot be reached"),
    ],
)
def test_what_the_hub_refuses(answer, status, code, says):
    answer.update(status=status, code=code)
    assert says in message(OWNER)


@pytest.fixture
def published(tmp_path, answer, monkeypatch):
    """A set as the `datasets` library finds it on the hub: here it reads a folder instead."""
    folder = parquet_set(tmp_path / "published" / "numbered", names=NAMES)
    answer["json"] = {"id": OWNER, "sha": "0" * 40}
    find = datasets.load_dataset_builder
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name: find(str(folder) if name == OWNER else name))
    return folder


@pytest.mark.parametrize("streaming", [False, True])
def test_a_published_set(published, streaming):
    splits, local = load(OWNER, streaming=streaming), load(str(published), streaming=streaming)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [18, 2, 6]
    assert splits.train.classes == tuple(NAMES) and splits.train.source == "numbered"
    for part in ("train", "validation", "test"):
        read, expected = (getattr(either, part).take(slice(None)) for either in (splits, local))
        assert numbers(read.pixels) == numbers(expected.pixels)
        assert read.pixels.equal(expected.pixels) and read.labels.equal(expected.labels)


def test_a_broken_image_of_a_published_set(published):
    write(published / "train.parquet", table([*pngs(0, 5), b"broken", *pngs(6, 9)], names=NAMES))
    assert f"{OWNER} train row 5: broken image" in message(OWNER)


def test_a_set_that_was_downloaded_is_read_without_a_network(own_cache, published, monkeypatch):
    before = load(OWNER)
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", own_cache)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    prepared = next(path for path in (own_cache / "numbered").glob("*/*/*") if path.is_dir())
    shutil.copytree(prepared, own_cache / "owner___numbered" / "default" / "0.0.0" / "abc")
    after = load(OWNER)
    assert after.train.pixels.equal(before.train.pixels) and after.train.classes == before.train.classes
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize("streaming", [False, True])
def test_a_published_set_without_class_names(published, streaming):
    parquet_set(published)
    assert load(OWNER, streaming=streaming).train.classes == ("0", "1", "2")


def test_offline_by_request_and_no_progress_bars(answer, published, monkeypatch, capfd):
    load(OWNER)
    assert "%|" not in capfd.readouterr().err and not datasets.utils.are_progress_bars_disabled()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    answer["asked"] = 0
    for streaming in (False, True):
        text = message("owner/other", streaming=streaming)
        assert "cannot be reached" in text and "not asked, since HF_HUB_OFFLINE is set" in text
    load(OWNER)  # its copy is in the cache
    assert answer["asked"] == 0


def test_offline_from_the_start(answer, tmp_path):
    script = "from robustdeq.data import load; load('owner/other')"
    url = huggingface_hub.constants.ENDPOINT
    for names in ({"HF_HUB_OFFLINE": "1"}, {"HF_DATASETS_OFFLINE": "1"}):
        env = {**os.environ, **names, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=100)
        assert done.returncode and "not asked, since HF_HUB_OFFLINE is set" in done.stderr.splitlines()[-1]
    assert answer["asked"] == 0


def test_what_cannot_be_read_from_the_hub(published, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    assert "give streaming=True" in message(OWNER)
    for file in published.iterdir():
        file.unlink()
    assert message(OWNER).startswith(f"{OWNER}: ")
    (published / "train.csv").write_text("a,b\n1,2\n")
    assert "only parquet files stream" in message(OWNER, streaming=True)
