"""Files are whole or the old ones; tensors are what was written; a folder is one process's at a time."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

import robustdeq as rd
from robustdeq import files
from robustdeq.cli import main

KILLED_IN = """
import os, sys
from robustdeq import files
from robustdeq.cli import main
replace = os.replace
def stop(old, new):
    if os.path.basename(new) == sys.argv[1]:
        os.kill(os.getpid(), 9)
    replace(old, new)
os.replace = stop
main(sys.argv[2:])
"""
"""A real process that is killed between the write of one file and its renaming."""


def leftovers(folder):
    return [path for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("name", ["config.json", "last.safetensors"])
def test_a_kill_inside_a_write_spoils_nothing_and_leaves_nothing(name, tmp_path):
    out = tmp_path / "out"
    command = ["train", "smoke", "--clean", "--set", "model_options={\"steps\": 2}", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", KILLED_IN, name, *command], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL and any(name in path.name for path in leftovers(out))
    assert main(command) == 0
    assert not leftovers(out)


def test_what_lies_in_another_process_s_folder_is_left_alone(tmp_path):
    with files.held(tmp_path / "below"):
        theirs = tmp_path / "below" / ".evaluation.json.0a1b2c3d"
        theirs.write_text("{")
        (tmp_path / ".config.json.abcd_123").write_text("{")
        files.tidy(tmp_path)
        assert theirs.exists() and not (tmp_path / ".config.json.abcd_123").exists()


def test_a_folder_of_somebody_else_is_refused_and_keeps_its_hidden_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".config.json.abcd1234").write_text("{")
    with pytest.raises(ValueError, match=r"is not empty and holds no config\.json"):
        files.claim(tmp_path / "config.json", {})
    assert len(list(tmp_path.iterdir())) == 2


def test_a_second_process_is_told_that_the_folder_is_in_use(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "robustdeq", "train", "digits", "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        while not (out / files.LOCK).exists() and first.poll() is None:
            time.sleep(0.05)
        second = subprocess.run(command, capture_output=True, text=True, timeout=120)
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == 130
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert f"{out} is in use by another process" in second.stderr
    assert not leftovers(out)


def test_a_folder_made_for_a_refused_command_goes_again(tmp_path):
    with pytest.raises(KeyError), files.held(tmp_path / "a" / "b"):
        raise KeyError
    assert not (tmp_path / "a").exists()


def test_files_have_the_rights_that_the_user_asked_for(tmp_path):
    before = os.umask(0o077)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("bit", range(0, 8))
def test_one_flipped_bit_is_noticed_wherever_it_is(bit, tmp_path):
    path = tmp_path / "x.safetensors"
    files.write_tensors(path, {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}, note="é")
    whole = path.read_bytes()
    tensors, metadata = files.read_tensors(path, "remove it")
    assert torch.equal(tensors["a"], torch.arange(6.0).reshape(2, 3)) and metadata == {"note": "é"}
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        try:
            changed, told = files.read_tensors(path, "remove it")
        except ValueError as error:
            assert re.search("cannot be read|is damaged", str(error))
        else:  # a space of the padding, or a sign that JSON reads as the same one
            assert told == metadata and all(torch.equal(changed[name], tensors[name]) for name in tensors)


def test_equal_contents_are_equal_files(tmp_path):
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths:
        files.write_tensors(path, {"a": torch.zeros(3)}, one="1", two="2", three="3")
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("damage", ["int8", "bit", "nan"])
def test_weights_that_are_not_those_that_were_saved_are_refused(damage, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = rd.save_model(rd.create_model("mdeq-nano", seed=0), tmp_path)
    path = folder / "model.safetensors"
    state = load_file(path)
    if damage == "int8":
        save_file({key: value.to(torch.int8) for key, value in state.items()}, path)
    else:
        data = bytearray(path.read_bytes())
        data[-1] ^= 64 if damage == "bit" else 127
        path.write_bytes(data)
    with pytest.raises(ValueError, match="of another type" if damage == "int8" else "is damaged"):
        rd.load_model(folder)
    save_file({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    assert rd.load_model(folder) is not None  # another program's file, in half precision


def test_a_config_that_asks_for_gigabytes_is_refused_before_they_are_taken(tmp_path):
    import resource

    folder = rd.save_model(rd.create_model("mdeq-nano", seed=0), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "channels": [24000, 48000]}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="does not fit this model"):
        rd.load_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "name, local",
    [("./x", True), ("../x/y", True), ("/x", True), ("~/x", True), ("runs/none", True), ("a/b/c", True),
     ("c:\\x", True), ("here/none", True), ("owner/name", False), ("name", False)],
)  # fmt: skip
def test_a_mistyped_path_is_no_hub_name(name, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert files.looks_local(name) is local
    if local:
        with pytest.raises(ValueError, match="the hub was not asked"):
            rd.load_model(name)
