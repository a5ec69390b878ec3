"""Hooks of mkdocs: which files the site has, and where a link leads in it.

A guide links to the README, to results/ and to examples/ by paths that lead there on disk and on any code host. So the
site has these files as well, and a link is rewritten to the place that its file has there. Notebooks and scripts become
pages, and every room of the package has a page of its public names, which cannot be forgotten since nobody lists them.
"""

import functools
import importlib.util
import posixpath
import re
from pathlib import Path

import griffe
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
OUTSIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "results/*.md", "results/*.html"]
OUTSIDE += ["examples/*.py", "examples/*.md", "weights/*/README.md"]
"""What the site has of the repository beside docs/."""
ROOMS = ["models", "dynamics", "gradients", "defences", "attacks"]
ROOMS += ["training", "evaluation", "data", "analysis", "testing"]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(?=[#)])")
FENCED = re.compile(r"(^```.*?^```$)", re.M | re.S)


def place(path):
    """The page of the site, as mkdocs names its source, for a file of the repository, as its posix path."""
    return re.sub(r"(\.py|\.ipynb|(?<=LICENSE))$", ".md", path.removeprefix("docs/"))


def on_files(files, config):
    """Adds the pages that stand outside docs/, the notebooks and the reference; lists a folder of the navigation."""
    for path in (path for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))):
        name = path.relative_to(ROOT).as_posix()
        files.append(_page(config, name, _shown(path)))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        path = ROOT / "docs" / notebook.src_uri
        files.append(_page(config, f"docs/{notebook.src_uri}", notebooks().markdown(path)))
    for name, text in reference().items():
        files.append(_page(config, f"docs/reference/{name}.md", text))
    for section in config.nav:
        for title, folder in section.items():
            if isinstance(folder, str) and folder.endswith("/"):
                pages = (file.src_uri for file in files if file.src_uri.endswith(".md"))
                section[title] = sorted(uri for uri in pages if uri.startswith(folder))
                section[title].sort(key=lambda uri: not uri.endswith("README.md"))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files of the repository lead to their pages, but for those inside of code."""
    here = page.file.src_uri
    source = getattr(page.file, "repository_path", f"docs/{here}")

    def rewritten(link):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[0]))
        known = (ROOT / target).is_file()
        return posixpath.relpath(place(target), posixpath.dirname(here) or ".") if known else link[0]

    parts = FENCED.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(rewritten, part) for part in parts)


def reference():
    """The pages of the reference by name: one a room, and one of the names of ``robustdeq`` itself."""
    package = load()
    pages = {room: _room(package[room]) for room in ROOMS}
    rows = [f"| [`rd.{name}`][{member.path}] | {summary(member)} |" for name, member in public(package).items()]
    rooms = [f"- [`robustdeq.{room}`]({room}.md): {summary(package[room])}" for room in ROOMS]
    head = "# Reference\n\n`import robustdeq as rd` has these names; each stands with the rest of its room.\n"
    return {"README": "\n".join([head, "| name | what it is |", "|---|---|", *rows, "", *rooms])} | pages


def public(module):
    """The public names of a package or a module, in order, and what they stand for."""
    if not module.is_init_module:
        return {name: member for name, member in module.members.items() if member.is_public and not member.is_alias}
    things = {}
    for name, path in sorted(module.imports.items()):
        if name in (module.exports or module.imports) and path.startswith("robustdeq."):
            # By its path: ``evaluation.evaluate`` is a function, but a module of that name lies beside it.
            thing = load()[path.removeprefix("robustdeq.")]
            thing = thing.final_target if thing.is_alias else thing
            things[name] = thing[name] if thing.is_module and name in thing.members else thing
    return {name: thing for name, thing in things.items() if not thing.is_module}


@functools.cache
def load():
    """The package as griffe reads it, without importing it."""
    return griffe.load("robustdeq", search_paths=[ROOT / "src"], resolve_aliases=True)


def summary(documented):
    """The first paragraph of a docstring on one line, as a cell of a table may hold it."""
    text = documented.docstring.value.split("\n\n")[0] if documented.docstring else ""
    return " ".join(text.split()).replace("|", "\\|")


def _room(module):
    """The page of a room: what it says of itself, then each of its names."""
    names = [f"::: {thing.path}" for thing in public(module).values()]
    return "\n\n".join([f"# robustdeq.{module.name}", module.docstring.value, *names]) + "\n"


def _page(config, name, text):
    """A page of the site for the file ``name`` of the repository, or for one that would have that name."""
    file = File.generated(config, place(name), content=text)
    file.repository_path = name
    return file


def _shown(path):
    """A page of markdown or HTML as it stands; any other text as code under its name."""
    text = path.read_text()
    if path.suffix in (".md", ".html"):
        return text
    return f"# {path.name}\n\n```{'python' if path.suffix == '.py' else 'text'}\n{text}```\n"


def notebooks():
    """docs/notebooks.py, which mkdocs has no way to import."""
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
