"""The page in a real browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import robustdeq as rd
from robustdeq.evaluation import Entry
from robustdeq.report import write_report


@pytest.fixture(scope="module")
def file(whole, tmp_path_factory):
    return write_report([whole], tmp_path_factory.mktemp("browser") / "a.html")


@pytest.fixture
def opened(browser):
    """Opens a file; at the end nothing was complained of, and nothing but that file was asked for."""
    pages, heard = [], []

    def open_file(file: Path, width: int = 1200, scheme: str = "light"):
        def asked(request):
            if not request.url.startswith(("data:", file.as_uri())):
                heard.append(f"asked for {request.url}")

        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
        page.on("request", asked)
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield open_file
    for page in pages:
        page.close()
    assert heard == []


def _data(file):
    return json.loads(re.search(r'id="data">(.*?)</script>', file.read_text(), re.S).group(1))


def _column(page, table, column):
    return page.eval_on_selector_all(f"{table} tbody tr", f"rows => rows.map(row => row.cells[{column}].dataset.value)")


def test_a_click_sorts_and_another_sorts_the_other_way(file, opened):
    page = opened(file)
    head = page.locator("#results thead th").nth(1)
    head.locator("button").click()
    up = [float(value) for value in _column(page, "#results", 1)]
    assert up == sorted(up) and head.get_attribute("aria-sort") == "ascending"
    head.locator("button").press("Enter")
    assert [float(value) for value in _column(page, "#results", 1)] == sorted(up, reverse=True)
    page.locator("#results thead button").first.press("Space")
    assert _column(page, "#results", 0) == ["mine/bare", "mine/defended"] and head.get_attribute("aria-sort") is None


def test_what_was_not_measured_comes_last_either_way(file, opened):
    page = opened(file)
    names = page.locator("#results thead button").all_inner_texts()
    joint = page.locator("#results thead button").nth(names.index("joint"))
    for _ in range(2):
        joint.click()
        values = _column(page, "#results", names.index("joint"))
        assert values[-1] == "" and values[0] != ""


def test_the_slider_shows_the_probabilities_of_its_state(file, opened):
    page, sample = opened(file), _data(file)["groups"][0]["samples"][0]
    assert page.locator("#t-value").inner_text() == page.locator("#t").get_attribute("max") == "4"
    marks = set()
    for t in (4, 3, 2, 1):
        shown = page.locator("#bars .class > span:last-child").all_inner_texts()
        numbers = [[float(number) for number in text.split(" · ")] for text in shown]
        for at, values in enumerate(sample["probabilities"]):
            assert [row[at] for row in numbers] == pytest.approx(values[t - 1], abs=0.0051)
        marks.add(page.locator("#entropy .now").get_attribute("x1"))
        page.locator("#t").press("ArrowLeft")
    assert len(marks) == 4 and page.locator("#t-value").inner_text() == "1"


def test_the_image_browser_by_keyboard(file, opened):
    page, samples = opened(file), _data(file)["groups"][0]["samples"]
    title = page.locator("#sample-title")
    thumbs = page.locator("#thumbs button")
    assert thumbs.count() == len(samples) and title.inner_text() == "Sample 0"
    thumbs.first.press("ArrowRight")
    assert title.inner_text() == "Sample 1" and page.evaluate("document.activeElement.tabIndex") == 0
    page.keyboard.press("End")
    assert title.inner_text() == f"Sample {len(samples) - 1}" and page.locator("#next").is_disabled()
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == f"Sample {len(samples) - 1}"
    page.keyboard.press("Home")
    assert title.inner_text() == "Sample 0" and page.locator("#previous").is_disabled()
    page.locator("#next").press("Enter")
    assert title.inner_text() == "Sample 1"
    assert page.locator("#thumbs [aria-selected=true]").count() == page.locator("#thumbs [tabindex='0']").count() == 1


def test_every_control_is_reached_by_the_tab_key(file, opened):
    page, reached = opened(file), set()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(120):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.parentElement.id"))
        page.keyboard.press("Tab")
    assert {"group", "filter", "thumbs", "next", "t"} <= reached


def test_filters_runs_and_pictures(file, opened):
    page, groups = opened(file), _data(file)["groups"]
    for index, group in enumerate(groups):
        page.locator("#group").select_option(str(index))
        for outcome in {sample["outcome"] for sample in group["samples"]}:
            page.locator("#filter").select_option(f"outcome {outcome}")
            wanted = [sample for sample in group["samples"] if sample["outcome"] == outcome]
            assert page.locator("#thumbs button").count() == len(wanted)
            assert page.locator("#sample-title").inner_text() == f"Sample {wanted[0]['sample']}"
    sizes = page.eval_on_selector_all("#images img", "all => all.map(image => [image.naturalWidth, image.alt])")
    assert len(sizes) >= 2 and all(width == 8 and alt for width, alt in sizes)


def test_a_sample_that_one_attack_broke_is_a_click_away(file, opened):
    page = opened(file)
    links = page.locator("a.sample")
    for link in (links.nth(k) for k in range(links.count())):
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        link.click()
        assert page.locator("#sample-title").inner_text() == f"Sample {link.inner_text()}"
        assert "Only " in page.locator("#sample-text").inner_text()
    assert links.count() == sum(bool(sample["alone"]) for group in _data(file)["groups"] for sample in group["samples"])


@pytest.mark.parametrize(("width", "scheme"), [(375, "light"), (375, "dark"), (1200, "dark")])
def test_nothing_is_wider_than_the_window_and_the_scheme_is_followed(file, opened, width, scheme):
    page = opened(file, width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    bright = sum(map(int, re.findall(r"\d+", paper)[:3])) > 380
    assert bright == (scheme == "light")


def test_it_prints_with_everything_unfolded_and_on_white(file, opened):
    page = opened(file, 1200, "dark")
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF") and page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 35, 39)"


def test_class_names_with_markup_are_text(opened, tmp_path):
    names, generator = ["<img src=x onerror=alert(1)>", "<script>alert(1)", '"&quot;\'${1}'], np.random.default_rng(0)
    for split in ("train", "test"):
        for name in names:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    splits = rd.data.load(tmp_path / "data", validation=0)
    model = rd.create_model("mdeq-nano", num_classes=3, image_shape=(3, 8, 8), steps=3, seed=0)
    rd.save_model(model, tmp_path / "model")
    attack = rd.attacks.PGD(rd.Linf(0.1), 0.05, 2)
    rd.evaluate(model, splits.test, suite=[Entry("pgd", "PGD", attack)], out=tmp_path / "run", images=True, checks=0)
    page = opened(write_report([tmp_path / "run"], models=[tmp_path / "model"], data=str(tmp_path / "data")))
    assert sorted(page.locator("#bars .class > span:first-child").all_inner_texts()) == sorted(names)
    assert page.locator("#sample-text").inner_text().startswith("True class ")
    assert page.locator("img[src=x]").count() == 0


def test_a_page_without_samples_works(whole, opened, tmp_path):
    page = opened(write_report([whole], tmp_path / "b.html", count=0), 375)
    assert page.locator("#samples").count() == 0 and page.locator("#training svg").count() > 4
