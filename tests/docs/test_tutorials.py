"""A tutorial's code runs, and prints what the notebook keeps."""

import re

import matplotlib.pyplot as plt
import pytest
from docs_site import ROOT, notebooks

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def near(kept, printed):
    """Another machine rounds otherwise, and training magnifies that: a tenth, and some images of a hundred."""
    return abs(kept - printed) <= 0.1 * max(abs(kept), abs(printed)) + (0.05 if abs(kept) < 3 else 6)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_prints_what_it_keeps(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = notebooks.read(path)
    try:
        shown = notebooks.run(notebook)
    finally:
        plt.close("all")
    cells = notebooks.code_cells(notebook)
    assert len(shown) == len(cells) > 4
    for cell, outputs in zip(cells, shown):
        kept, printed = notebooks.text_of(cell["outputs"]), notebooks.text_of(outputs)
        assert re.sub(r"\s+", " ", NUMBER.sub("N", kept)) == re.sub(r"\s+", " ", NUMBER.sub("N", printed))
        pairs = zip(map(float, NUMBER.findall(kept)), map(float, NUMBER.findall(printed)), strict=True)
        assert all(near(*pair) for pair in pairs), f"kept:\n{kept}\nprinted:\n{printed}"
        kinds = [[[*part.get("data", ["text"])] for part in shown] for shown in (cell["outputs"], outputs)]
        assert kinds[0] == kinds[1]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_the_links_of_a_tutorial_lead_somewhere(path):
    words = "\n".join(cell["source"] for cell in notebooks.read(path)["cells"] if cell["cell_type"] == "markdown")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", words) if "://" not in link]
    assert links and [link for link in links if not (path.parent / link).is_file()] == []


def test_a_cell_shows_what_it_prints_and_its_last_value():
    sources = ["a = 2\nprint(a)", "a + 1", "b = a", "print(b)\n[b]", ""]
    cells = [{"cell_type": "markdown", "source": "words"}]
    cells += [{"cell_type": "code", "source": source} for source in sources]
    texts = [notebooks.text_of(outputs) for outputs in notebooks.run({"cells": cells})]
    assert texts == ["2\n", "3", "", "2\n\n[2]", ""]


def test_an_error_in_a_cell_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        notebooks.run({"cells": [{"cell_type": "code", "source": "1 / 0"}]})
