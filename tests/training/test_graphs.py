"""CUDA graphs where there is none to record on; what they compute is tested on a GPU (tests/test_gpu.py)."""

from robustdeq.cli import main


def test_they_are_refused_on_a_cpu_before_anything_is_written(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["train", "smoke", "--graphs", "--out", str(out)]) == 2
    assert "CUDA graphs of accumulate=1 in 1 processes on cpu; allowed:" in capsys.readouterr().err
    assert not out.exists()
