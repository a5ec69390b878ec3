"""The site is built without a warning, asks no other machine for anything, and no link in it is broken."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from docs_site import ROOT, hooks

pytest.importorskip("mkdocs")
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
"""What a browser asks for by itself."""


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it fetches."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.fetched = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if FETCHED.get(tag) in values:
            self.fetched.append(values[FETCHED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: its folder, and its pages by path."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml", "-d", folder]
    built = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"})
    assert built.returncode == 0, built.stdout + built.stderr
    return folder, {path.relative_to(folder).as_posix(): Page(path.read_text()) for path in folder.rglob("*.html")}


def test_nothing_is_fetched_from_elsewhere(site):
    folder, pages = site
    asked = {url for page in pages.values() for url in page.fetched if urlsplit(url).scheme not in ("", "data")}
    asked |= {url for page in pages.values() for url in page.fetched if url.startswith("//")}
    for sheet in folder.rglob("*.css"):
        asked |= set(re.findall(r"(?:url\(|@import\s)\s*[\"']?((?:https?:)?//[^\"')\s]+)", sheet.read_text()))
    assert asked == set()


def test_every_link_leads_to_a_page_and_an_anchor(site):
    folder, pages = site
    lost = []
    for name, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc or name == "404.html":
                continue
            path = os.path.normpath(os.path.join(os.path.dirname(name), unquote(url.path))) if url.path else name
            path = os.path.join(path, "index.html") if (folder / path).is_dir() else path
            anchor = unquote(url.fragment)
            if not (folder / path).is_file() or (anchor and path in pages and anchor not in pages[path].ids):
                lost.append((name, link))
    assert lost == []


def test_every_public_name_has_its_place_in_the_reference(site):
    _, pages = site
    for room in hooks.ROOMS:
        shown = pages[f"reference/{room}.html"].ids
        assert {thing.path for thing in hooks.public(hooks.load()[room]).values()} <= shown, room


def test_files_outside_the_docs_and_notebooks_are_pages(site):
    _, pages = site
    wanted = {"index.html", "CONTRIBUTING.html", "results/digits.html", "examples/deq_of_your_own.html"}
    assert wanted | {"tutorials/masked.html", "tutorials/dynamics.html", "adr/index.html"} <= set(pages)
    pictures = [url for url in pages["tutorials/dynamics.html"].fetched if url.startswith("data:image/png")]
    assert len(pictures) == 2


def test_a_browser_shows_a_page_in_light_and_dark_and_asks_nobody(site):
    playwright = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium here")
    folder, _ = site
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        shown = driver.chromium.launch(executable_path=browser, args=flags)
        asked, said = [], []
        for scheme, colours in (("light", "default"), ("dark", "slate")):
            page = shown.new_page(viewport={"width": 380, "height": 800}, color_scheme=scheme)
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: said.append(message.text))
            for name in ("index.html", "tutorials/masked.html", "reference/attacks.html"):
                page.goto((folder / name).as_uri())
                assert page.locator("h1").first.inner_text()
                assert page.locator("body").get_attribute("data-md-color-scheme") == colours
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, name  # on a phone only a table or a block of code moves sideways
        shown.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and said == []
