"""A Space is a folder that shows the same page, here as a real process; and what the verb says where it cannot."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from importlib.metadata import version

import pytest
import torch
from small_models import own

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.view import serve, write_space

NAME = 'a "model": <b>\\n</b> {x} \N{SNOWMAN}\N{GRINNING FACE}'


@pytest.fixture(scope="module")
def model():
    return rd.create_model("mdeq-nano", seed=0, steps=3).eval()


@pytest.fixture(scope="module")
def space(model, digits, tmp_path_factory):
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("space")
    write_space(folder, model, digits, name=NAME, eps="0.15")
    return folder


def test_a_space_has_the_model_the_images_a_header_and_pinned_packages(space, model, digits):
    back = rd.load_model(space / "model")
    assert torch.equal(back(digits.images()), model(digits.images()))
    header = (space / "README.md").read_text().split("---\n")[1].splitlines()
    assert f'sdk_version: "{version("gradio")}"' in header and 'app_file: "app.py"' in header
    assert 'python_version: "{}.{}"'.format(*sys.version_info) in header
    assert header[0].startswith('title: "a \\"model\\": <b>')
    lines = (space / "requirements.txt").read_text().splitlines()
    assert f"gradio=={version('gradio')}" in lines and f"torch=={version('torch').partition('+')[0]}" in lines
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert (space / "robustdeq" / "view" / "page.py").is_file() and not list(space.rglob("__pycache__"))


def test_an_older_space_is_written_anew(model, digits, tmp_path):
    pytest.importorskip("gradio")
    write_space(tmp_path / "space", model, digits)
    write_space(tmp_path / "space", model)
    assert not (tmp_path / "space" / "images.safetensors").exists()


def test_a_folder_of_somebody_else_is_left_alone(model, tmp_path):
    pytest.importorskip("gradio")
    (tmp_path / "app.py").write_text("print('mine')\n")
    with pytest.raises(ValueError, match="no Space of ours; give another --space"):
        write_space(tmp_path, model)
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]
    with pytest.raises(ValueError, match="no Space of ours"):
        write_space(tmp_path / "app.py", model)


def test_app_py_shows_the_page_at_home_and_ends_with_ctrl_c(space, heard):
    hidden = ("SPACE_ID", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if name not in hidden} | {"PYTHONUNBUFFERED": "1"}
    run = subprocess.Popen(
        [sys.executable, "app.py"], cwd=space, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = run.stdout.readline()
        assert "Ctrl-C ends it" in line, run.stderr.read()
        address = re.match(r"http://127\.0\.0\.1:\d+/", line)
        with urllib.request.urlopen(address[0], timeout=20) as answer:
            assert answer.status == 200 and b"gradio" in answer.read()
        run.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        while run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert run.returncode == 0 and "Traceback" not in run.stderr.read()
    finally:
        run.kill()
        run.wait()


def test_without_gradio_one_line_says_what_to_install(model, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gradio", None)
    folder = rd.save_model(model, tmp_path / "model")
    assert main(["view", str(folder)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "pip install 'robustdeq[view]'" in line


def test_what_has_no_dynamics_is_refused(tmp_path, capfd):
    for other in (rd.create_model("resnet18"), rd.EntropyReduction()(own())):
        with pytest.raises(ValueError, match="allowed: a DEQ, whose dynamics can be shown"):
            serve(other)
    with pytest.raises(ValueError, match="allowed: one with an image_shape"):
        serve(own(image_shape=None))
    for words in (["--port", "0"], ["--eps", "2"], ["--count", "0"], ["--data", "digit"]):
        folder = rd.save_model(rd.create_model("mdeq-nano", seed=0), tmp_path / "model")
        assert main(["view", str(folder), *words]) == 2
        assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_taken_port_is_one_line(model, capfd):
    pytest.importorskip("gradio")
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ValueError, match="allowed: a port that is free") as error:
            serve(model, port=other.getsockname()[1], wait=False)
    assert len(str(error.value).splitlines()) == 1
