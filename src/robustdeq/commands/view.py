"""The verb that shows a model live: view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from ..checks import Pixels, Whole
from ..distributed import available
from ..models import load_model
from ..text import printable
from ..view import check_viewed, first_images, serve, write_space
from .shared import Command


@dataclass(kw_only=True)
class View(Command):
    """Show a DEQ's dynamics in the browser, on this machine alone: choose an image, attack it, defend it.

    For example:
      robustdeq view runs/mine/model
      robustdeq view runs/small/model --data path/to/cifar10 --eps 8/255 --browser
      robustdeq view runs/mine/model --space spaces/mine    # a folder to be pushed as a Space; nothing is uploaded

    It needs gradio: pip install 'robustdeq[view]'.
    """

    model: Positional[str]
    """A folder that save_model or `robustdeq train` wrote, or a hub id."""
    data: str | None = None
    """Whose first test images are offered: digits, a folder of parquet files or images, or a name on the hub; default:
    the digits for a model of 1x8x8 pixels, else none. Images can be uploaded in any case."""
    count: Annotated[int, Whole(1, 200)] = 32
    """How many of them."""
    eps: Annotated[float, Pixels(0, 1, low_open=True)] | None = None
    """Radius of the L-inf ball to begin with; default 0.15 for digits, 8/255 for others."""
    port: Annotated[int, Whole(1, 65535)] | None = None
    """Default: the first free one from 7860 on."""
    browser: bool = False
    """Open the page in the browser."""
    space: Path | None = None
    """Instead of showing the page, write a folder that is a Space of the hub, and runs at home with `python app.py`."""

    def run(self) -> None:
        model = check_viewed(load_model(self.model)).to(available(self.device))
        shape, source = model.image_shape or (), self.data
        if source is None and tuple(shape) == (1, 8, 8):
            source = "digits"
        images = None if source is None else first_images(source, shape, self.count)
        eps = ("0.15" if source == "digits" else "8/255") if self.eps is None else f"{self.eps:g}"
        name = Path(self.model).resolve().name if Path(self.model).is_dir() else self.model
        if self.space is None:
            serve(model, images, name=name, eps=eps, port=self.port, browser=self.browser)
        else:
            write_space(self.space, model, images, name=name, eps=eps)
            print(f"{printable(str(self.space))}: app.py, requirements.txt, README.md, model/, robustdeq/")
