"""Ctrl-C, once and twice, in real processes: one line, exit code 130, and the same command goes on."""

import signal
import subprocess
import sys
import time

import pytest

TRAIN = ["train", "digits"]
REPRODUCE = ["reproduce", "smoke", "--jobs", "2"]


pytestmark = pytest.mark.usefixtures("heard")


def interrupted(words, out, when, pauses):
    """Started, and sent SIGINT when the file ``when`` is there and after each further pause."""
    command = [sys.executable, "-m", "robustdeq", *words, "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 100
        while not any(out.rglob(when)) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        for pause in (0, *pauses):
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    return process.returncode, [line for line in errors.splitlines() if line.strip()]


@pytest.mark.parametrize("pauses", [(), (0.01,), (0.2,), (0.05, 0.05, 0.05)], ids=["once", "at once", "soon", "often"])
@pytest.mark.parametrize("words, when", [(TRAIN, "events*"), (REPRODUCE, "events*")], ids=["train", "reproduce"])
def test_ctrl_c_is_one_line_however_often(words, when, pauses, tmp_path):
    code, lines = interrupted(words, tmp_path / "out", when, pauses)
    assert code == 130
    assert not any("Traceback" in line or "Exception" in line for line in lines), lines
    assert lines[-1] == "robustdeq: interrupted; the same command goes on from what is done."


def test_a_row_that_waits_is_not_begun(tmp_path):
    """A pool of processes hands a row out before the one ahead of it has ended."""
    code, _ = interrupted([*REPRODUCE[:2], "--jobs", "1"], tmp_path / "out", "events*", ())
    assert code == 130
    assert [folder.name for folder in (tmp_path / "out" / "training").iterdir()] == ["baseline"]


def test_a_folder_is_named_on_a_terminal_that_knows_no_such_letters(tmp_path):
    words = ["train", "smoke", "--clean", "--set", 'model_options={"steps": 2}', "--out", str(tmp_path / "ünï[/x]")]
    command = ["env", "PYTHONIOENCODING=ascii", "LC_ALL=C", sys.executable, "-m", "robustdeq", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "\\xfcn\\xef[/x]/model" in done.stdout


CHILD = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from robustdeq.training.interrupts import interrupts

def work(out):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts() as asked:
        Path(out, "ready").touch()
        while not asked.is_set():
            time.sleep(0.01)
        time.sleep(1.0)  # as long as a checkpoint takes
        Path(out, "saved").touch()
    Path(out, "after").touch()

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work, args=(sys.argv[1],))
    process.start()
    while not Path(sys.argv[1], "ready").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    for _ in range(3):
        time.sleep(0.2)
        process.terminate()
    process.join()
    print(process.exitcode)
"""


def test_a_process_of_a_pool_saves_before_it_ends(tmp_path):
    """A terminal's Ctrl-C reaches it too, and is its parent's affair; the pool then ends it, perhaps more than once."""
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == str(-signal.SIGTERM), done.stderr
    assert (tmp_path / "saved").exists() and not (tmp_path / "after").exists()
