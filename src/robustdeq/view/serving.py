"""A page on this machine alone, or a folder that is a Space of the Hugging Face hub."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import threading
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from ..data import ImageSet
from ..evaluation.identity import check_classes
from ..files import first_line, held, tidy, write_bytes, write_text
from ..models import DEQClassifier, save_model, structure
from ..text import printable, shown
from .examples import save_images

LOCAL = "127.0.0.1"
LARGEST = "10mb"
"""Of an upload."""
IMAGES = "images.safetensors"
SCRIPT = '''"""The dynamics of a deep equilibrium model, live. At home: python app.py, then http://127.0.0.1:7860."""

from pathlib import Path

from robustdeq import load_model
from robustdeq.view import read_images, serve

here = Path(__file__).parent
file = here / "{images}"
images = read_images(file) if file.exists() else None
serve(load_model(here / "model"), images, name={name}, eps={eps}, host=None)
'''


def check_viewed(model: Any) -> DEQClassifier:
    """The DEQ whose dynamics are to be looked at, which says what images it takes."""
    deq = structure(model).deq
    if deq is None or deq is not structure(model).deployed:
        raise ValueError(f"view: the model is a {type(model).__name__}; allowed: a DEQ, whose dynamics can be shown.")
    if deq.image_shape is None:
        raise ValueError("view: the model takes images of any shape; allowed: one with an image_shape, for uploads.")
    return deq


def serve(
    model: Any, images: ImageSet | None = None, *, name: str = "a DEQ", eps: str = "8/255", host: str | None = LOCAL,
    port: int | None = None, browser: bool = False, wait: bool = True,
) -> Any:  # fmt: skip
    """Show a model's page until Ctrl-C. images, name, eps: see ``page``.

    host: the address that is listened at; None takes GRADIO_SERVER_NAME, which a Space sets, or else 127.0.0.1. port:
    None takes the first free one from 7860 on. browser: open it there. wait: False gives the running page back, to be
    closed with ``close()``. Raises a ValueError where gradio is missing, or the port is taken.
    """
    deq = check_viewed(model)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        importlib.import_module("gradio")
    except ImportError as error:
        why = f"gradio cannot be imported ({first_line(error)})"
        raise ValueError(f"view: {why}; allowed: with pip install 'robustdeq[view]'.") from error
    pages = importlib.import_module(".page", __package__)  # which imports gradio at its head
    page = pages.page(deq, images, name=name, eps=eps)
    try:
        _, address, _ = page.queue(api_open=False).launch(
            server_name=host, server_port=port, inbrowser=browser, prevent_thread_lock=True, quiet=True, share=False,
            max_file_size=LARGEST, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
            strict_cors=True, footer_links=[], run_history=False, theme=pages.THEME, css=pages.CSS,
        )  # fmt: skip
    except OSError as error:
        place = f"{host or LOCAL}, port {port or '7860 to 7959'}"
        raise ValueError(f"view: nothing can listen at {place}; allowed: a port that is free, or none.") from error
    if not wait:
        return page
    print(f"{address} shows {printable(name)}; Ctrl-C ends it.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


def write_space(
    folder: Path, model: Any, images: ImageSet | None = None, *, name: str = "a DEQ", eps: str = "8/255"
) -> None:
    """Write what a Space consists of: app.py, requirements.txt, README.md with the Space's header, the model, the
    images, and this package itself. Nothing is uploaded. ``python app.py`` in the folder shows the page at home.

    Raises a ValueError for a folder that is neither empty nor an older one of these.
    """
    deq, script = check_viewed(model), folder / "app.py"
    if images is not None:
        check_classes("view", structure(deq), images)
    text = SCRIPT.format(images=IMAGES, name=ascii(name), eps=ascii(eps))
    ours = script.is_file() and script.read_text(errors="replace").splitlines()[:1] == text.splitlines()[:1]
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not empty, and no Space of ours; give another --space.")
    needed = requirements()
    header = {"title": printable(name), "sdk": "gradio", "sdk_version": needed["gradio"], "app_file": "app.py"}
    header["python_version"] = ".".join(platform.python_version_tuple()[:2])  # for which these versions exist
    told = "\n".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items())
    with held(folder):
        tidy(folder)
        write_text(script, text)
        save_model(deq, folder / "model")
        if images is None:
            (folder / IMAGES).unlink(missing_ok=True)
        else:
            save_images(folder / IMAGES, images)
        source = Path(__file__).parents[1]
        for file in sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
            copy = folder / "robustdeq" / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(copy, file.read_bytes())
        write_text(folder / "requirements.txt", "".join(f"{name}=={number}\n" for name, number in needed.items()))
        about = "The neural dynamics of a deep equilibrium model under attack and behind a defence, by robustdeq."
        write_text(folder / "README.md", f"---\n{told}\n---\n\n{about}\n")


def requirements() -> dict[str, str]:
    """What the page needs, by name, gradio among it, and the versions that are installed here."""
    try:
        names = {"gradio": version("gradio")}
        for line in requires("robustdeq") or ():
            name = re.match(r"[\w.-]+", line)
            if name is not None and "extra ==" not in line:
                names[name[0]] = version(name[0]).partition("+")[0]
        return names
    except PackageNotFoundError as error:
        missing = f"{shown(error.name)} is not installed"
        raise ValueError(f"view --space: {missing}; allowed: with pip install 'robustdeq[view]'.") from error
