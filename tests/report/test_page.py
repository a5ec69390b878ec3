"""The page: whole in itself, safe with any name, and there for any folder."""

import json
import re
import shutil
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

import robustdeq as rd
from robustdeq.cli import main
from robustdeq.evaluation import Entry
from robustdeq.report import write_report
from robustdeq.report.words import SETTINGS

EVIL = "<script>alert(1)</script>"


class Read(HTMLParser):
    """Tags with their attributes, ids, and the text of every script."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts, self.text = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)


@pytest.fixture(scope="module")
def html(whole, tmp_path_factory):
    return write_report([whole], tmp_path_factory.mktemp("page") / "a.html").read_text()


def test_nothing_is_asked_of_any_network(html):
    page = Read(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttp", html)
    policy = next(of["content"] for tag, of in page.tags if of.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy


def test_ids_are_unique_links_lead_somewhere_and_pictures_have_words(html):
    page = Read(html)
    ids = [of["id"] for _, of in page.tags if "id" in of]
    assert len(ids) == len(set(ids))
    assert {of["href"][1:] for tag, of in page.tags if tag == "a"} <= set(ids)
    pictures = [of for tag, of in page.tags if tag == "svg"]
    assert pictures and all(of.keys() & {"aria-label", "aria-labelledby", "aria-hidden"} for of in pictures)


def test_it_says_what_the_evaluation_says(html, bare, defended):
    text = " ".join(" ".join(Read(html).text).split())
    for evaluation in (bare, defended):
        for share in evaluation.shares().values():
            low, high = share.interval
            drawn = f"95% interval from {low:.1f} to {high:.1f} percent"
            assert f"{share.percent:.1f} {drawn} {share.count}/{share.total}" in text
        for flag in evaluation.flags:
            assert not flag.fired or flag.text in text
    for sentence in SETTINGS.values():
        assert sentence in text
    for command in ("robustdeq train", "robustdeq evaluate", "--defend", "--seed 0", "McNemar"):
        assert command in text


def test_a_hundred_samples_are_a_small_file(html):
    assert len(html.encode()) < 1_000_000


def test_the_same_runs_give_the_same_page(whole, html, tmp_path):
    assert write_report([whole], tmp_path / "b.html").read_text() == html


def test_names_with_markup_are_text(digits, whole, tmp_path):
    """In a folder, an attack, one of another evaluation, a column, a class and the words for the samples."""
    model = rd.load_model(whole / "model")
    attack = rd.attacks.PGD(rd.Linf(0.15), 0.05, 2)
    folder = tmp_path / 'a&<b>"c\'{{ 7 * 7 }}'
    suite = [Entry(EVIL, EVIL, attack), Entry("</script><img src=x onerror=alert(2)>", "PGD", attack)]
    options = {"threat": rd.Linf(0.15), "samples": EVIL, "checks": 0, "images": True}
    for entries in (suite, [*suite, Entry(f"{EVIL} of before", "PGD", attack)], suite):
        rd.evaluate(model, digits.images(), digits.labels, suite=entries, out=folder, **options)
    page = Read(write_report([folder], models=[whole / "model"]).read_text())
    assert f"asked for them: {EVIL} of before, which broke" in "".join(page.text)
    assert (folder / "report.html").exists()
    assert [tag for tag, _ in page.tags].count("script") == 2 and not [t for t, of in page.tags if "onerror" in of]
    data = json.loads(page.scripts[0])
    assert {entry["attack"] for entry in data["groups"][0]["samples"]} >= {EVIL}
    assert data["groups"][0]["name"] == folder.name and folder.name in "".join(page.text)


JUNK = ["", "{}", "[]", "null", '"x"', "[1]", '{"rows": 5}', "\x00"]


@pytest.mark.parametrize("file", [
    "config.json", "log.jsonl", "bare/evaluation.json", "defended/evaluation.json", "last.safetensors",
    "model/config.json", "model/model.safetensors", "bare/images/joint-0.safetensors",
])  # fmt: skip
def test_no_damage_is_a_traceback(run, tmp_path, file):
    """Every kind of junk, half of the file, and no file."""
    whole = (run / file).read_bytes()
    texts = JUNK if whole.isascii() else JUNK[:1]
    for junk in [None, whole[: len(whole) // 2], *(text.encode() for text in texts)]:
        if junk is None:
            (run / file).unlink()
        else:
            (run / file).write_bytes(junk)
        page = write_report([run], tmp_path / "a.html", count=2).read_text()
        assert Read(page).tags[0][0] == "html"
        if file.endswith("evaluation.json") and junk is not None:
            assert "What is missing" in page


def test_an_analysis_that_is_none_is_said(whole, tmp_path):
    out = tmp_path / "out"
    (out / "analysis").mkdir(parents=True)
    (out / "recipe.json").write_text(json.dumps({"recipe": "smoke", "rows": {"baseline": {}}}))
    flat = '{"entropy": {"clean": [1], "attacked": [[1]]}}'
    states = '{"readouts": {"states": [5]}}'
    for junk in ("5", "[]", '{"entropy": 5}', flat, states, '{"readouts": 7}', '{"residuals": 3}'):
        (out / "analysis" / "baseline.json").write_text(junk)
        page = write_report([out]).read_text()
        assert "baseline: " in page and 'id="dynamics"' not in page


def test_a_log_of_junk_is_no_traceback_either(run):
    rows = [{"step": 1, "epoch": "x"}, {"step": 2, "epoch": 1, "loss": None}, {"step": 3, "train": 5},
            {"step": 4, "epoch": 2, "loss": 1e400, "validation": 7, "warnings": 3}]  # fmt: skip
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    page = write_report([run], count=0, figures=True).read_text()
    assert "the figure training could not be drawn" in page


def test_the_command_writes_report_and_figures(whole, tmp_path, capsys):
    out = tmp_path / "new" / "both.html"
    runs = [whole / "bare", whole / "defended", whole]
    assert main(["report", *map(str, runs), "--figures", "--samples", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out) and out.exists()
    figures = tmp_path / "new" / "both-figures"
    assert {path.name for path in figures.iterdir()} == {
        f"{name}.{kind}" for name in ("accuracy", "entropy", "training") for kind in ("png", "svg")
    }
    for path in figures.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    again = tmp_path / "again.html"
    write_report(runs, again, count=3, figures=True)
    for path in figures.iterdir():
        assert path.read_bytes() == (tmp_path / "again-figures" / path.name).read_bytes()


def test_mistakes_are_told_in_a_line(whole, tmp_path, capsys):
    record = next(whole.rglob("evaluation.json"))
    before = record.read_bytes()
    for words, said in (
        (["report", str(tmp_path)], "holds no run"),
        (["report", str(whole), "--model", str(tmp_path / "no")], "no such folder"),
        (["report", str(whole), "--data", str(tmp_path / "no")], "no such folder"),
        (["report", str(whole), "--out", str(record)], "is there and no report"),
        (["report", str(tmp_path / "no")], "is no folder"),
        (["report", str(whole), "--out", str(tmp_path)], "is a folder"),
        (["report", str(whole), "--samples", "-1"], "samples"),
        (["report"], "FOLDERS missing"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [] and record.read_bytes() == before


def test_a_title_with_dollars_is_drawn_as_it_stands(whole, tmp_path):
    folder = shutil.copytree(whole / "bare", tmp_path / "$x_{$")
    write_report([folder], figures=True, count=0)
    assert (folder / "report-figures" / "accuracy.png").exists()
