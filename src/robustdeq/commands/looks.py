"""The verbs that show: report, view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from ..checks import Natural, Pixels, Whole
from ..distributed import available
from ..models import load_model
from ..progress import bar
from ..report import write_report
from ..report.page import SAMPLES
from ..text import printable
from ..view import check_viewed, first_images, serve, write_space
from .shared import Command


@dataclass(kw_only=True)
class Report:
    """Write one HTML file that shows a training, an evaluation, a reproduction, or several side by side.

    For example:
      robustdeq report runs/digits
      robustdeq report runs/mine/quick --model runs/mine/model
      robustdeq report runs/mine/quick runs/mine/defended --figures --out runs/mine/both.html

    The file holds all it shows and asks nothing of any network. Single samples are shown with their images and their
    dynamics where an evaluation kept them (--images), and where its model and its test images are found.
    """

    folders: Positional[tuple[Path, ...]]
    """Folders that train, evaluate or reproduce wrote. What is unfinished, damaged or of another version is shown as
    far as it can be read."""
    out: Path | None = None
    """The HTML file; default report.html in the folder of a single run, else in the current one."""
    model: tuple[str, ...] = ()
    """A model that was judged, as a folder or a hub id, where it does not lie near its evaluation. It is shown only if
    its logits are those on record. May be given several times."""
    data: str | None = None
    """The source of the test images, as `robustdeq evaluate --data` takes it; default: what the run tells, if local."""
    samples: Natural = SAMPLES
    """How many samples of each evaluation are shown."""
    figures: bool = False
    """Write figures for papers as well, PNG and SVG, into a folder beside the file."""

    def run(self) -> None:
        with bar("report") as progress:
            path = write_report(
                self.folders, self.out, models=self.model, data=self.data, count=self.samples, figures=self.figures,
                progress=progress,
            )  # fmt: skip
        print(printable(str(path)))


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
        if self.space is not None:
            self.check_idle("--space", "without it", "port", "browser")
        model = check_viewed(load_model(self.model)).to(available(self.device))
        shape, source = model.image_shape or (), self.data
        if source is None and tuple(shape) == (1, 8, 8):
            source = "digits"
        images = None if source is None else first_images(source, shape, self.count)
        eps = ("0.15" if source == "digits" else "8/255") if self.eps is None else f"{self.eps:g}"
        name = Path(self.model).resolve().name if Path(self.model).is_dir() else self.model
        if images is None:
            self.check_idle("without --data", "--data", "count")
        if self.space is None:
            serve(model, images, name=name, eps=eps, port=self.port, browser=self.browser)
        else:
            write_space(self.space, model, images, name=name, eps=eps)
            print(f"{printable(str(self.space))}: app.py, requirements.txt, README.md, model/, robustdeq/")
