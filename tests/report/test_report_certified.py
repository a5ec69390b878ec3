"""Certificates in a report: curve, table, red flag and figure, and what cannot be read."""

import json

import pytest
import torch
from small_models import Linear, images

from robustdeq.cli import main
from robustdeq.evaluation import certify, compare
from robustdeq.report import write_report
from robustdeq.report.curves import certified_chart


class Stated(Linear):
    """A linear classifier that states a tenth of its slopes."""

    def slopes(self):
        weight = self.weight.detach().double()
        return 0.1 * torch.cdist(weight, weight)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder as certify leaves it, of a bound that is wrong."""
    folder = tmp_path_factory.mktemp("certified")
    model, x = Stated(Linear.random(3, size=64).weight.detach()), images(12, shape=(1, 8, 8))
    y = model(x).argmax(1)
    certificate = certify(model, x, y, out=folder)
    return folder, compare(certificate, model, x[:8], y[:8], radii=(0.25, 0.5), out=folder, steps=5)


def test_the_chart_has_both_curves_at_every_radius(made):
    chart = certified_chart(made[1])
    certified, attacked = chart.series
    rows = made[1].to_dict()["rows"]
    assert list(certified.y) == [row["certified"]["percent"] for row in rows] and len(certified.x) == 7
    assert list(attacked.x) == [0.0, 0.25, 0.5] and attacked.y[0] == 100
    assert [tick.text for tick in chart.x_ticks][:3] == ["0", "0.5", "1"]
    assert "certified from 100" in chart.text


def test_a_report_shows_the_curve_the_flag_and_a_figure(made, tmp_path, capsys):
    folder, compared = made
    assert compared.flags[0].fired
    page = write_report([folder], tmp_path / "report.html", figures=True).read_text()
    assert "Certified accuracy" in page and compared.flags[0].text in page and 'href="#certified"' in page
    assert all((tmp_path / "report-figures" / f"certified.{kind}").stat().st_size for kind in ("png", "svg"))
    assert main(["report", str(folder), "--out", str(tmp_path / "again.html")]) == 0


def test_an_unfinished_certificate_is_named_as_missing(made, tmp_path):
    record = json.loads((made[0] / "certificate.json").read_text())
    record["batches"].popitem()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "certificate.json").write_text(json.dumps(record))
    (tmp_path / "cut" / "table.md").write_text("as it was printed")
    page = write_report([tmp_path / "cut"], tmp_path / "report.html").read_text()
    assert "cannot be read" in page and "as it was printed" in page
