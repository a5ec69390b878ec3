"""A link that leads to a file of the repository leads to that file's page in the site."""

import json
from types import SimpleNamespace

import pytest
from docs_site import hooks, notebooks


def written(text, source):
    """``text`` as it stands on the page of ``source``, a file of the repository."""
    file = SimpleNamespace(src_uri=hooks.place(source), repository_path=source)
    return hooks.on_page_markdown(text, SimpleNamespace(file=file), None, None)


@pytest.mark.parametrize(
    ("source", "link", "there"),
    [
        ("README.md", "docs/gradients.md#the-rules", "gradients.md#the-rules"),
        ("README.md", "docs/figures/entropy.png", "figures/entropy.png"),
        ("README.md", "LICENSE", "LICENSE.md"),
        ("docs/gradients.md", "../results/joint.md", "results/joint.md"),
        ("docs/gradients.md", "training.md", "training.md"),
        ("docs/gradients.md", "tutorials/masked.ipynb", "tutorials/masked.md"),
        ("docs/tutorials/masked.ipynb", "../gradients.md#the-rules", "../gradients.md#the-rules"),
        ("docs/your-own-deq.md", "../examples/deq_of_your_own.py", "examples/deq_of_your_own.md"),
        ("examples/README.md", "../docs/your-own-deq.md", "../your-own-deq.md"),
        ("results/digits.md", "../README.md", "../README.md"),
        ("README.md", "https://example.org/docs/gradients.md", "https://example.org/docs/gradients.md"),
        ("README.md", "#in-python", "#in-python"),
        ("README.md", "docs/no-such-page.md", "docs/no-such-page.md"),  # left as it is, for mkdocs to complain of
    ],
)
def test_a_link_is_taken_to_its_page(source, link, there):
    assert written(f"see [it]({link}) and ![it]({link})", source) == f"see [it]({there}) and ![it]({there})"


def test_code_is_left_alone():
    text = "```python\nx[docs](README.md)\n```\n"
    assert written(text, "README.md") == text


def test_a_cell_of_a_table_holds_no_bar():
    documented = SimpleNamespace(docstring=SimpleNamespace(value="max |x|\nover x\n\nmore"))
    assert hooks.summary(documented) == r"max \|x\| over x"


def test_a_notebook_becomes_a_page_of_text_code_and_outputs(tmp_path):
    output = {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]}
    picture = {"output_type": "execute_result", "data": {"image/png": "AAAA", "text/plain": ["A [title]"]}}
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": ["print(1)\n", "print(2)"], "outputs": [output, picture]},
    ]
    (tmp_path / "it.ipynb").write_text(json.dumps({"cells": cells}))
    code, shown = "```python\nprint(1)\nprint(2)\n```", "```text\n1\n2\n```"
    page = notebooks.markdown(tmp_path / "it.ipynb")
    assert page == f"# Title\nwords\n\n{code}\n\n{shown}\n\n![A  title ](data:image/png;base64,AAAA)\n"
