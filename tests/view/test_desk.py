"""What the page's handlers answer where nothing can be looked at, and what is kept of an upload."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from small_models import own

from robustdeq.testing import left_untouched

gr = pytest.importorskip("gradio", reason="gradio is not installed")

from robustdeq.view.desk import OWN, Chosen, Desk  # noqa: E402
from robustdeq.view.page import page  # noqa: E402
from robustdeq.view.serving import write_space  # noqa: E402

VALUES = ("PGD", "0.1", 3, "unrolled", False, "frozen", False, 0)


def attacked(desk, chosen, label=OWN, values=VALUES):
    return desk.attack(gr.Request(), lambda *_, **__: None, chosen, label, *values)


def test_a_page_without_images_is_for_uploads(trained):
    blocks = page(trained)
    kinds = [type(block).__name__ for block in blocks.blocks.values()]
    assert "UploadButton" in kinds and "Gallery" not in kinds
    desk = Desk(trained, None)
    line, kept = attacked(desk, None)
    assert "no image; choose or upload one." in line and kept == gr.skip()


def test_images_whose_classes_have_other_names_are_refused(trained, digits, tmp_path):
    """The page gave an image the name that the model has for its number, and led the attack away from another class."""
    turned = replace(digits, classes=digits.classes[::-1])
    for shows in (lambda: page(trained, turned), lambda: write_space(tmp_path / "space", trained, turned)):
        with pytest.raises(ValueError, match="class 0 is 'zero' to the model and '9' in the images"):
            shows()
    assert not (tmp_path / "space").exists()


def test_an_upload_is_removed_once_it_is_read(trained, digits, tmp_path):
    desk, file = Desk(trained, digits), tmp_path / "mine.png"
    Image.new("L", (20, 20), 255).save(file)
    chosen, picture, label, line, html = desk.upload(str(file), *VALUES)
    assert not file.exists() and torch.equal(chosen.x, torch.ones(1, 1, 8, 8)) and chosen.label is None
    assert "mine.png" in picture and label == OWN and "The prediction is" in line and "<svg" in html


def test_a_label_of_one_s_own_stands_for_that_of_the_image(trained, digits):
    desk = Desk(trained, digits)
    chosen = desk.example(0)
    assert "stands" in attacked(desk, chosen)[0] or "leads" in attacked(desk, chosen)[0]
    other = (chosen.label + 1) % 10
    assert "Wrong without an attack" in attacked(desk, chosen, other)[0]


def test_a_model_that_breaks_down_is_one_line_and_is_given_back(digits):
    model = own(10, side=8)
    desk = Desk(model, digits)

    def break_down(*_):
        raise RuntimeError("broken <b>down</b>\nfor good")

    handle = model.readout.register_forward_pre_hook(break_down)
    with left_untouched(model):
        line, kept = attacked(desk, desk.example(0))
    assert line.endswith(">RuntimeError: broken &lt;b&gt;down&lt;/b&gt;</p>") and kept == gr.skip()
    handle.remove()
    assert "PGD:" in attacked(desk, desk.example(0))[0]


@pytest.mark.parametrize("place, value, words", [(1, None, "eps=None"), (2, 0, "steps=0"), (7, None, "seed=None")])
def test_a_control_that_is_left_empty_is_one_line(place, value, words, trained, digits):
    desk = Desk(trained, digits)
    values = [*VALUES[:place], value, *VALUES[place + 1 :]]
    line, kept = attacked(desk, Chosen(torch.zeros(1, 1, 8, 8), None, "black"), values=values)
    assert words in line and "class=mistake" in line and kept == gr.skip()
