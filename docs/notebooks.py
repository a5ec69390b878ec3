"""The tutorials: notebooks that keep what their code prints.

    python docs/notebooks.py                     # run all of docs/tutorials and keep what they print
    python docs/notebooks.py docs/tutorials/masked.ipynb

The code cells of a notebook run in order in one namespace, in plain Python: no kernel, and any notebook program opens
the result. As there, a cell shows what it prints, and the value of its last line.
"""

import ast
import base64
import contextlib
import io
import json
import re
import sys
from pathlib import Path

TUTORIALS = Path(__file__).parent / "tutorials"


def read(path):
    """A notebook of format 4 as a dict; the text of its cells is one string each."""
    notebook = json.loads(Path(path).read_text())
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def code_cells(notebook):
    """The cells of a notebook that are run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook, namespace=None):
    """What each code cell shows, as nbformat's outputs: a list of lists of dicts. An error stops the run as it is."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    return [_run_cell(cell["source"], number, namespace) for number, cell in enumerate(code_cells(notebook), 1)]


def _run_cell(source, number, namespace):
    tree, name, printed, value = ast.parse(source), f"<cell {number}>", io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), namespace)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
    outputs = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())})
    if value is not None:
        shown = {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": _data(value)}
        outputs.append(shown)
    return outputs


def _data(value):
    """A value by media type. A figure's text is its title, which a page takes for the alternative text."""
    if not hasattr(value, "savefig"):
        return {"text/plain": _lines(repr(value))}
    png = io.BytesIO()
    value.savefig(png, format="png", dpi=80, metadata={"Software": None})
    return {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": [value.get_suptitle()]}


def keep(path):
    """Run a notebook and write what it shows into its file, which is replaced as a whole."""
    from robustdeq.files import write_text  # here, since the site is built without torch

    notebook = read(path)
    for number, (cell, outputs) in enumerate(zip(code_cells(notebook), run(notebook)), 1):
        cell.update(execution_count=number, outputs=outputs)
    for cell in notebook["cells"]:
        cell["source"] = _lines(cell["source"])
    write_text(Path(path), json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def text_of(outputs):
    """The printed lines and plain values among a cell's outputs, as one string."""
    return "\n".join("".join(part["text"] if "text" in part else part["data"]["text/plain"]) for part in outputs)


def markdown(path):
    """The notebook as a page: text as it stands, code, and what it shows."""
    parts = []
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
            continue
        parts.append(f"```python\n{cell['source']}\n```")
        for output in cell["outputs"]:
            text, data = "".join(output.get("text", "")), output.get("data", {})
            if "image/png" in data:
                alternative = re.sub(r"[\[\]\n]", " ", "".join(data["text/plain"]))
                parts.append(f"![{alternative}](data:image/png;base64,{data['image/png']})")
            else:
                parts.append(f"```text\n{(text or ''.join(data['text/plain'])).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _lines(text):
    """A text as nbformat keeps it, line by line."""
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    for path in sys.argv[1:] or sorted(TUTORIALS.glob("*.ipynb")):
        print(path)
        keep(path)
