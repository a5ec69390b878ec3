"""Every python block of the README and the guides runs as it stands; every shell line is one that the command line
takes; every relative link leads somewhere, its anchor included."""

import json
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from robustdeq.cli import _command
from robustdeq.evaluation import Evaluation
from robustdeq.recipes import recipe
from robustdeq.report.paired import paired
from robustdeq.reproduction.row import DEFENDED, Job
from robustdeq.reproduction.table import COLUMNS

ROOT = Path(__file__).parents[1]
NAMES = ["*.md", "docs/**/*.md", "results/*.md", "examples/*.md"]
PAGES = {str(page.relative_to(ROOT)): page for name in NAMES for page in sorted(ROOT.glob(name))}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
NEEDED = {"docs/torchdeq.md": "torchdeq"}
"""What a page's code imports beside this package's own dependencies."""


def _blocks(page, *languages):
    return [block for block in BLOCK.finditer(page.read_text()) if block.group(1) in languages]


def _code(page):
    """The page's python blocks as one program, with the lines where they stand in the page."""
    text = page.read_text()
    lines = [""] * text.count("\n")
    for block in _blocks(page, "python"):
        start = text[: block.start(2)].count("\n")
        for offset, line in enumerate(block.group(2).splitlines()):
            lines[start + offset] = line
    return "\n".join(lines)


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if _blocks(page, "python")])
def test_the_code_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    monkeypatch.chdir(tmp_path)
    exec(compile(_code(PAGES[name]), name, "exec"), {"__name__": "__page__"})


def test_a_block_says_its_language_and_every_kind_is_tested():
    kinds = {(name, block.group(1)) for name, page in PAGES.items() for block in BLOCK.finditer(page.read_text())}
    assert {kind for kind in kinds if kind[1] not in ("python", "sh")} == set()


def _commands(page):
    """The words of a page's shell lines: of its ``sh`` blocks, and of the indented ones that call this package."""
    text = page.read_text()
    indented = [textwrap.dedent(block) for block in re.findall(r"(?:^ {4}.*\n)+", BLOCK.sub("", text), re.M)]
    blocks = [block.group(2) for block in _blocks(page, "sh")]
    blocks += [block for block in indented if re.match(r"(?:robustdeq|torchrun) ", block)]
    for line in (line for block in blocks for line in re.split(r"\n(?=\S)", block)):  # what goes on is indented
        if words := shlex.split(line.replace("\\\n", " "), comments=True):
            yield words


LINES = [(name, words) for name, page in PAGES.items() for words in _commands(page)]
COMMANDS = [pytest.param(words, id=f"{name}: {shlex.join(words)[:60]}") for name, words in LINES]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_shell_line_is_one_that_can_be_typed(words):
    program, *rest = words
    if program == "make":
        assert set(rest) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    elif words[:3] == ["python3", "-m", "webbrowser"]:
        assert words[3:] == ["file://$PWD/runs/digits/report.html"]  # which the line before has written
    elif program == "pip":
        assert rest[0] == "install"
    elif program == "python" and "-m" not in rest:
        assert (ROOT / rest[0]).is_file()
    else:
        if program in ("torchrun", "python"):
            program, *rest = rest[rest.index("-m") + 1 :]
        assert program in ("robustdeq", ".venv/bin/robustdeq")
        command = _command(*rest)
        if hasattr(command, "changed"):
            command.changed()  # what --set says is checked there


def _slug(heading):
    """A heading's anchor, as code hosts and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _anchors(path):
    return {_slug(heading) for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", path.read_text()), re.M)}


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_lead_somewhere(name):
    page = PAGES[name]
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())) if "://" not in link]
    lost = []
    for link in links:
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in _anchors(path)):
            lost.append(link)
    assert lost == []


def test_the_rows_of_the_readme_are_those_of_the_whole_table():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    whole = (ROOT / "results" / "paper-table.md").read_text().splitlines()
    assert len(rows) == 5 and [row for row in rows if row not in whole] == []


def test_the_paper_s_table_says_what_the_records_beside_it_say():
    """Every row, and every pair in which it was gained or lost."""
    page = (ROOT / "results" / "paper-table.md").read_text()
    folders = list((ROOT / "results" / "paper-table").glob("seed-*"))
    assert folders
    for folder in folders:
        rows = json.loads((folder / "recipe.json").read_text())["rows"]
        names = [name for row in rows for name in (row, row + DEFENDED)]
        job = Job(recipe=recipe("cifar10-small"), out=folder)
        found = {name: Evaluation.read(place) for name in names if (place := job.place("evaluation", name)).exists()}
        for name, evaluation in found.items():
            shares = evaluation.shares()
            cells = [str(shares[column]).replace("/1000", "") if column in shares else "-" for column in COLUMNS]
            assert f"| {name} | {' | '.join(cells)} |" in page
        for one, other in re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| \d+ \| \d+ \|", page, re.MULTILINE):
            if {one, other} <= found.keys():
                pair = paired(found[one], found[other])[-1]
                line = f"| {one} | {other} | {pair.first} | {pair.second} | "
                assert line in page
                assert float(page.split(line)[1].split()[0]) == float(f"{pair.p:.2g}")
        assert found


def test_every_decision_stands_in_their_list():
    listed = (ROOT / "docs" / "adr" / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs" / "adr").glob("0*.md") if f"({page.name})" not in listed] == []


def test_every_example_stands_in_their_list():
    listed = (ROOT / "examples" / "README.md").read_text()
    assert [page.name for page in (ROOT / "examples").glob("*.py") if f"({page.name})" not in listed] == []


def test_the_tables_of_tailored_trainings_are_those_of_the_records_beside_them():
    command = [sys.executable, "benchmarks/tailored.py", "--out", "results/tailored"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n\n")
    page = (ROOT / "results" / "tailored.md").read_text()
    assert len(printed) == 2 and all(table.strip() in page for table in printed)
