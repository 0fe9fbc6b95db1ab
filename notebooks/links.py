"""What every notebook has alike: its first cell, and how it is opened elsewhere.

    python notebooks/links.py          write both anew, into all notebooks, README and CITATION.cff

The repository's address is said in one place, `Repository` under [project.urls] in pyproject.toml.
While there is none, no file has a link to it, and a notebook that was opened alone asks for a
clone. With it, such a notebook clones the course by itself, and below its title are badges for
Colab and Binder and, since links to files beside it lead nowhere in Colab, the same links in full.
"""

import json
import posixpath
import re
import sys
import tomllib
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "notebooks"
BRANCH = "main"
BINDER_MEMORY = 2  # GB that mybinder.org gives a user

FIRST_CELL = """\
# Set-up: find simlab around this notebook or beside it, and install what it lacks here
{imports}import sys
from importlib.util import find_spec
from pathlib import Path

here = Path.cwd()
homes = [p for p in (here, *here.parents, here / "simlab") if (p / "simlab/__init__.py").exists()]
{where_there_is_none}
sys.path[:0] = [str(p) for p in homes[:1] if str(p) not in sys.path]
from simlab_course.packages import install_missing

install_missing()"""

ASK = """\
message = "no simlab here: clone its repository into this folder"
assert homes or find_spec("simlab_course"), message"""

CLONE = """\
if not homes and not find_spec("simlab_course"):  # opened alone, as in Colab
    address = "{repository}"
    subprocess.run(["git", "clone", "--quiet", "--depth=1", address, "simlab"], check=True)
    homes = [here / "simlab"]"""

# the input is folded in JupyterLab and VS Code, and in the book
FOLDED = {"jupyter": {"source_hidden": True}, "tags": ["setup", "hide-input"]}
ELSEWHERE = {"tags": ["elsewhere", "remove-cell"]}  # the book has no links that need a network


def main() -> int:
    address = repository()
    for path in notebooks():
        old = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(old, as_version=4)
        update(notebook, path, address)
        write_if_new(path, nbformat.writes(notebook) + "\n")
    readme, citation = ROOT / "README.md", ROOT / "CITATION.cff"
    write_if_new(readme, readme_with(readme.read_text(encoding="utf-8"), address))
    write_if_new(citation, citation_with(citation.read_text(encoding="utf-8"), address))
    print(f"the repository is {address}" if address else "there is no Repository in pyproject.toml")
    return 0


def repository() -> str:
    """The repository's address, or nothing where pyproject.toml has none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository", "").removesuffix("/").removesuffix(".git")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise SystemExit(
            f"Repository = {address!r} in pyproject.toml: expected https://github.com/OWNER/NAME, "
            "since Colab and Binder open notebooks from there"
        )
    return address


def notebooks() -> list[Path]:
    """Every notebook of the course, exercises and sweeps included."""
    return sorted(p for p in SOURCE.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def write_if_new(path: Path, text: str):
    if path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"written: {path.relative_to(ROOT)}")


# ------------------------------------------------------------------------------------ one notebook


def update(notebook: NotebookNode, path: Path, address: str):
    """Write a notebook's first cell and its links to the repository anew; nothing else changes."""
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = first_cell(address)
            cell.metadata = nbformat.from_dict(FOLDED)
    cells = [c for c in notebook.cells if "elsewhere" not in c.metadata.get("tags", [])]
    if address:
        metadata = nbformat.from_dict(ELSEWHERE)
        text = links_elsewhere(cells, path, address)
        cell = nbformat.v4.new_markdown_cell(text, metadata=metadata, id="elsewhere")
        has_card = "card" in cells[1].metadata.get("tags", [])
        cells.insert(2 if has_card else 1, cell)
    notebook.cells = cells


def first_cell(address: str) -> str:
    """The cell that makes simlab importable, wherever the notebook was opened."""
    if not address:
        return FIRST_CELL.format(imports="", where_there_is_none=ASK)
    clone = CLONE.format(repository=address)
    return FIRST_CELL.format(imports="import subprocess\n", where_there_is_none=clone)


def links_elsewhere(cells: list[NotebookNode], path: Path, address: str) -> str:
    """Badges for Colab and Binder, and the links to other files of the course in full."""
    name = path.relative_to(ROOT).as_posix()
    lines = [colab_badge(name, address), binder_badge(name, address)]
    files = linked_files(cells, name)
    if files:
        links = [f"[{f.removeprefix('notebooks/')}]({in_full(f, address)})" for f in files]
        lines += ["", f"Opened alone, as in Colab, its links are: {' · '.join(links)}"]
    return "\n".join(lines)


def linked_files(cells: list[NotebookNode], name: str) -> list[str]:
    """The files of the course to which a notebook's text links, by their paths from the root."""
    files = {}  # in order, each once
    for cell in cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"(?<!!)\[[^\]]+\]\((?![a-z]+:|#)([^)#\s]+)", cell.source):
                files[posixpath.normpath(posixpath.join(posixpath.dirname(name), target))] = None
    return list(files)


def in_full(place: str, address: str) -> str:
    """The address of a file: of a notebook in Colab, of another on GitHub."""
    return colab(place, address) if place.endswith(".ipynb") else f"{address}/blob/{BRANCH}/{place}"


def colab(name: str, address: str) -> str:
    owner_and_name = address.removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{owner_and_name}/blob/{BRANCH}/{name}"


def colab_badge(name: str, address: str) -> str:
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({image})]({colab(name, address)})"


def binder_badge(name: str, address: str) -> str:
    """A badge, or why there is none: a notebook may need more memory than Binder gives."""
    needed = memory_of(name)
    if needed >= BINDER_MEMORY:
        return f"Not for Binder, which gives {BINDER_MEMORY} GB: it needs {needed} GB."
    owner_and_name = address.removeprefix("https://github.com/")
    place = quote(f"lab/tree/{name}", safe="")
    link = f"https://mybinder.org/v2/gh/{owner_and_name}/{BRANCH}?urlpath={place}"
    return f"[![Launch Binder](https://mybinder.org/badge_logo.svg)]({link})"


def memory_of(name: str) -> float:
    """The memory in GB that was measured of a lesson; 0 for exercises, which need less."""
    measured = json.loads((SOURCE / "durations.json").read_text(encoding="utf-8"))
    place = Path(name)
    is_lesson = place.parent.name == "notebooks"
    return float(measured.get(place.stem, {}).get("memory", 0)) if is_lesson else 0.0


# ------------------------------------------------------------------------------------- other files


def readme_with(text: str, address: str) -> str:
    """The README with badges and the clone's line between its marks, or nothing there."""
    lines = ""
    if address:
        start = "notebooks/00_start_here.ipynb"
        badges = f"{colab_badge(start, address)}\n{binder_badge(start, address)}"
        clone = f"```bash\ngit clone {address} simlab && cd simlab\n```"
        lines = f"{badges}\n\n{clone}\n"
    mark = r"(<!-- elsewhere -->\n).*?(<!-- end of elsewhere -->)"
    return re.sub(mark, lambda m: m[1] + lines + m[2], text, count=1, flags=re.DOTALL)


def citation_with(text: str, address: str) -> str:
    """CITATION.cff with the repository's address as its last line, or without one."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.MULTILINE)
    return f'{text}repository-code: "{address}"\n' if address else text


if __name__ == "__main__":
    sys.exit(main())
