"""The page as a user meets it, in a real browser: it looks, attacks, defends, stops, and keeps to itself."""

import contextlib
import socket
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from robustdeq.view import Settings, look, serve
from robustdeq.view.shown import outcome

pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")
NAME = "<b>mine</b> & co"
ELSEWHERE = "127.0.0.2"
"""This machine too, by an address at which nobody listens who listens at 127.0.0.1."""
PATIENCE = 60_000
"""Milliseconds on a busy machine."""


@pytest.fixture(scope="module")
def address(trained, digits):
    """Of the page, served by this process, which meanwhile connects to nobody but itself."""
    asked, connect = [], socket.socket.connect

    def told(self, place):
        asked.append(place)
        return connect(self, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", told)
        page = serve(trained, digits, name=NAME, eps="0.15", wait=False)
        yield page.local_url
        page.close(verbose=False)
    assert {place[0] for place in asked if isinstance(place, tuple)} <= {"127.0.0.1", ELSEWHERE}


@pytest.fixture
def opened(address, browser):
    """A function that opens the page. Whatever was opened has asked no other host, and said no error."""
    pages, wrong = [], []

    def open_page(**options):
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}).new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: wrong.append(request.url) if foreign(request.url) else None)
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#result svg")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.context.close()
    assert wrong == []


def foreign(url):
    place = urlsplit(url)
    return place.scheme in ("http", "https", "ws", "wss") and place.hostname != "127.0.0.1"


def wait(page, words, where="#status"):
    """Until these words stand there: the text of all."""
    page.wait_for_function("([at, words]) => document.querySelector(at).innerText.includes(words)", arg=[where, words])
    return page.inner_text(where).strip()


def fill(page, where, value):
    box = page.locator(f"{where} textarea, {where} input").first
    box.fill(value)
    box.press("Tab")


def test_it_opens_with_the_first_image_and_names_are_text(opened, trained, digits):
    page = opened()
    assert page.inner_text("h1") == NAME
    x, label = digits.images(slice(0, 1)), int(digits.labels[0])
    found = look(trained, x, label, Settings(attack="none"))
    assert page.inner_text("#status").strip() == outcome(found, trained.classes)
    page.click("#gallery button >> nth=4")
    wait(page, "image 5 of", "#chosen")
    page.click("button:has-text('More')")
    page.click("#label input")
    options = page.locator("[role=option]").all_inner_texts()
    assert [name for name in trained.classes if not any(name in option for option in options)] == []
    assert page.locator("#result b, [role=option] b, #chosen b").count() == 0


def test_an_attack_is_the_attack_of_the_library_and_is_drawn(opened, trained, digits):
    page = opened()
    page.click("#gallery button >> nth=2")
    wait(page, "image 3 of", "#chosen")
    fill(page, "#eps", "0.3")
    page.click("#go")
    said = wait(page, "f-units")
    found = look(trained, digits.images(slice(2, 3)), int(digits.labels[2]), Settings(eps=0.3))
    assert said.rsplit(";", 1)[0] == outcome(found, trained.classes).rsplit(";", 1)[0]  # but for the seconds
    images = page.locator("#result .images img")
    assert images.count() == 3
    assert images.evaluate_all("all => all.every(one => one.complete && one.naturalWidth === 8 && one.alt)")
    assert page.locator("#result svg[role=img]").count() == 6
    assert page.locator("#result .chart circle").count() > 6 * 4
    page.check("#whole input")
    page.click("#go")
    wait(page, "PGD: 21 passes")


def test_the_defence_is_switched_on_and_off_and_what_the_attack_knows_is_chosen(opened):
    page = opened()
    assert page.locator("#sees").count() == 0 or not page.locator("#sees").is_visible()
    page.check("#defended input")
    page.wait_for_selector("#sees")
    assert page.locator("#gradient input").is_disabled()  # of what looks through the defence
    fill(page, "#steps", "2")
    page.click("#go")
    assert "updates of the input" in wait(page, "f-units")
    assert page.locator("#result .images img").count() == 5 and page.locator("#result th[scope=row]").count() == 4
    page.click("#sees label >> nth=0")
    page.wait_for_selector("#gradient input:enabled")
    page.click("#attack-kind label:has-text('joint')")
    page.wait_for_selector("#gradient", state="hidden")
    page.click("#go")
    wait(page, "joint: ")
    page.uncheck("#defended input")
    page.wait_for_selector("#sees", state="hidden")
    page.click("#go")
    page.wait_for_function("document.querySelectorAll('#result .images img').length === 3")


@contextlib.contextmanager
def slowed(model):
    """The model with a pause in every injection. So small a one keeps Python busy and is soon through, and this
    process, which is the page's server too, would tell of a run when it is over."""
    hook = model.inject.register_forward_pre_hook(lambda *_: time.sleep(0.005))
    try:
        yield
    finally:
        hook.remove()


def long_run(page, sees):
    """Begin a long attack that breaks nothing, and wait for its first passes."""
    fill(page, "#eps", "1e-7")
    page.check("#defended input")
    page.click(f"#sees label:has-text('{sees}:')")
    fill(page, "#steps", "200")
    page.wait_for_selector("#stop:disabled")
    page.click("#go")
    page.wait_for_function("/\\b[1-9][0-9]*.201 passes/.test(document.querySelector('#status').innerText)")


def test_a_run_tells_its_progress_and_stop_ends_it(opened, trained):
    page = opened()
    before = page.inner_html("#result")
    with slowed(trained):
        long_run(page, "frozen")
        assert page.locator("#go").is_disabled()
        page.click("#stop")
        assert wait(page, "Stopped") and page.inner_html("#result") == before
    page.wait_for_selector("#go:enabled")
    assert page.locator("#stop").is_disabled()
    fill(page, "#steps", "1")
    page.click("#go")
    wait(page, "PGD: 2 passes")


def test_a_tab_that_is_closed_ends_its_run(opened, trained):
    page, start = opened(), trained.tally.evaluations
    with slowed(trained):
        long_run(page, "end-to-end")
        page.close()
    before, deadline = -1, time.monotonic() + 60
    while before != trained.tally.evaluations:
        assert time.monotonic() < deadline
        before = trained.tally.evaluations
        time.sleep(1)
    assert before - start < 201 * trained.steps  # what the attack takes, which was not done to its end


def test_an_upload_is_looked_at_in_the_model_s_shape(opened, trained, tmp_path):
    page, file = opened(), tmp_path / "my <i>one.png"
    pixels = np.zeros((80, 120), np.uint8)
    pixels[10:70, 50:70] = 255
    Image.fromarray(pixels).save(file)
    page.set_input_files("input[type=file]", file)
    wait(page, "one", "#chosen")
    assert page.locator("#chosen i, #result i").count() == 0
    assert page.evaluate("document.querySelector('#chosen img').naturalWidth") == 8
    page.click("#go")
    assert "f-units" in wait(page, "f-units")
    before = page.inner_html("#result")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    page.set_input_files("input[type=file]", tmp_path / "broken.png")
    said = wait(page, "broken image")
    assert "Traceback" not in said and len(said.splitlines()) == 1
    assert page.inner_html("#result") == before


def test_an_upload_that_is_too_large_or_no_image_is_refused_and_the_page_goes_on(address, browser, tmp_path):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.wait_for_selector("#result svg")
    (tmp_path / "large.png").write_bytes(bytes(11_000_000))
    (tmp_path / "text.txt").write_text("text")
    for name, words in (("large.png", "maximum allowed size"), ("text.txt", "Invalid file type")):
        page.set_input_files("input[type=file]", tmp_path / name)
        page.wait_for_selector(f"text={words}")
    page.click("#go")
    wait(page, "f-units")
    page.close()


@pytest.mark.parametrize("eps, words", [("8/0", "a number in (0, 1]"), ("", "allowed"), ("[", "no JSON"), ("2", "=2;")])
def test_a_mistake_is_one_line_of_the_page(eps, words, opened):
    page = opened()
    before = page.inner_html("#result")
    fill(page, "#eps", eps)
    page.click("#go")
    said = wait(page, words)
    assert len(said.splitlines()) == 1 and "Traceback" not in said
    assert page.inner_html("#result") == before


def test_it_can_be_read_in_the_dark_and_on_a_phone(opened):
    def contrast(page):
        """Of the text of a chart and the page behind it, as WCAG counts it."""
        rgb = page.evaluate(
            """() => [getComputedStyle(document.querySelector('#result .chart text')).fill,
                      getComputedStyle(document.body).backgroundColor]
                .map(colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number))"""
        )
        linear = torch.tensor(rgb, dtype=torch.float64) / 255
        linear = torch.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
        light = (linear @ torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)).sort().values
        return float((light[1] + 0.05) / (light[0] + 0.05))

    bright, dark = opened(), opened(color_scheme="dark", viewport={"width": 390, "height": 800})
    assert contrast(bright) > 4.5 and contrast(dark) > 4.5
    background = "getComputedStyle(document.body).backgroundColor"
    assert bright.evaluate(background) != dark.evaluate(background)
    assert dark.evaluate("document.documentElement.scrollWidth") <= 390


def test_it_listens_on_this_machine_alone(address):
    port = urlsplit(address).port
    assert urlsplit(address).hostname == "127.0.0.1"
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(5)
        other.connect((ELSEWHERE, port))
