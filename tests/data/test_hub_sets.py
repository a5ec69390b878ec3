"""The hub: found, unknown, closed, silent or out of reach. A server on this machine plays its part."""

import contextlib
import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import huggingface_hub
import pytest
from image_files import NAMES, numbers, parquet_set, pngs, table, write

from robustdeq.data import hub, load

OWNER = "owner/numbered"


@pytest.fixture(autouse=True)
def own_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def answer(monkeypatch):
    """Lets the hub answer every request with a status, a code and JSON, after a delay."""
    given = {"status": 200, "code": "", "json": {}, "delay": 0.0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(given["delay"])
            body = json.dumps(given["json"]).encode()
            self.send_response(given["status"])
            self.send_header("X-Error-Code", given["code"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # who asked has given up
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *given):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield given
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
    assert f"{hub.SHORT.get(name, name)}: no such folder" in text and "the hub cannot be reached" in text


def test_a_hub_that_does_not_answer_is_given_up(answer, monkeypatch):
    answer["delay"] = 2.0
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
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
        found, expected = (getattr(given, part).take(slice(None)) for given in (splits, local))
        assert numbers(found.pixels) == numbers(expected.pixels)
        assert found.pixels.equal(expected.pixels) and found.labels.equal(expected.labels)


def test_a_broken_image_of_a_published_set(published):
    write(published / "train.parquet", table([*pngs(0, 5), b"broken", *pngs(6, 9)], names=NAMES))
    assert f"{OWNER} train row 5: broken image" in message(OWNER)


def test_a_set_that_was_downloaded_is_read_without_a_network(tmp_path, published, monkeypatch):
    before = load(OWNER)
    monkeypatch.undo()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("ROBUSTDEQ_CACHE", str(tmp_path / "other cache"))
    prepared = next(path for path in (tmp_path / "hf" / "numbered").glob("*/*/*") if path.is_dir())
    shutil.copytree(prepared, tmp_path / "hf" / "owner___numbered" / "default" / "0.0.0" / "abc")
    after = load(OWNER)
    assert after.train.pixels.equal(before.train.pixels) and after.train.classes == before.train.classes
    assert not datasets.config.HF_HUB_OFFLINE


def test_what_cannot_be_read_from_the_hub(published, tmp_path, monkeypatch):
    parquet_set(published)
    assert "has no class names" in message(OWNER)
    monkeypatch.setattr(hub, "MAX_BYTES", 10)
    assert "give streaming=True" in message(OWNER)
    for file in published.iterdir():
        file.unlink()
    assert message(OWNER).startswith(f"{OWNER}: ")
    (published / "train.csv").write_text("a,b\n1,2\n")
    assert "only parquet files stream" in message(OWNER, streaming=True)
