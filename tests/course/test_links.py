"""The notebooks' first cell, and their links to the repository: written in one place for all."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import links
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = "https://github.com/somebody/simlab"
every_notebook = pytest.mark.parametrize("path", links.notebooks(), ids=lambda p: p.stem)


def updated(path, address):
    notebook = nbformat.read(path, as_version=4)
    links.update(notebook, path, address)
    return notebook


def texts_of(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


# -------------------------------------------------------------------------- as they are committed


@every_notebook
def test_a_committed_notebook_is_what_the_address_makes_of_it(path):
    text = nbformat.writes(updated(path, links.repository())) + "\n"
    assert path.read_text(encoding="utf-8") == text, "python notebooks/links.py"


def test_readme_and_citation_are_what_the_address_makes_of_them():
    for name, make in (("README.md", links.readme_with), ("CITATION.cff", links.citation_with)):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert make(text, links.repository()) == text, "python notebooks/links.py"


@every_notebook
def test_the_first_cell_is_folded_and_comes_before_all_but_the_parameters(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    first = next(c for c in cells if "parameters" not in c.metadata.get("tags", []))
    assert first.source == links.first_cell(links.repository())
    assert first.metadata["jupyter"] == {"source_hidden": True}  # JupyterLab, VS Code
    assert {"setup", "hide-input"} <= set(first.metadata["tags"])  # the book
    assert not first.outputs


# --------------------------------------------------------------------------------- with an address


@every_notebook
def test_with_an_address_a_notebook_opens_in_colab_and_its_links_lead_somewhere(path):
    notebook, name = updated(path, ADDRESS), path.relative_to(ROOT).as_posix()
    (cell,) = (c for c in notebook.cells if "elsewhere" in c.metadata.get("tags", []))
    assert notebook.cells.index(cell) <= 2 and "remove-cell" in cell.metadata.tags
    nbformat.validate(notebook)
    colab = f"https://colab.research.google.com/github/somebody/simlab/blob/main/{name}"
    assert f"({colab})" in cell.source
    places = re.findall(
        r"\]\(https://[\w.]+/(?:github/)?somebody/simlab/blob/main/([^)]+)\)", cell.source
    )
    assert all((ROOT / place).exists() for place in places), places
    relative = re.findall(r"\]\((?!https?:|#)([^)#]+)", texts_of(notebook))
    for target in relative:  # each link that is dead in Colab stands here in full
        place = (path.parent / target).resolve().relative_to(ROOT).as_posix()
        assert place in places, target


def test_without_an_address_nothing_is_left_of_the_links():
    for path in links.notebooks():
        notebook = updated(path, ADDRESS)
        links.update(notebook, path, "")
        assert notebook == updated(path, "")
        assert "colab.research" not in texts_of(notebook) and "mybinder" not in texts_of(notebook)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = links.readme_with(readme, ADDRESS)
    assert linked.count("colab-badge") == 1 and f"git clone {ADDRESS} simlab" in linked
    assert links.readme_with(linked, "") == links.readme_with(readme, "")
    citation = links.citation_with("title: simlab\n", ADDRESS)
    assert f'repository-code: "{ADDRESS}"' in citation
    assert links.citation_with(citation, "") == "title: simlab\n"


def test_binder_is_offered_where_its_memory_suffices():
    assert links.memory_of("notebooks/06_scaling_up.ipynb") > links.BINDER_MEMORY
    assert "3.7 GB" in links.binder_badge("notebooks/06_scaling_up.ipynb", ADDRESS)
    badge = links.binder_badge("notebooks/01_pretraining.ipynb", ADDRESS)
    start = "https://mybinder.org/v2/gh/somebody/simlab/main?urlpath=lab%2Ftree%2Fnotebooks%2F01"
    assert start in badge


@pytest.mark.parametrize(
    "address", ["https://gitlab.com/a/b", "github.com/a/b", "https://github.com/a"]
)
def test_an_address_that_colab_can_not_open_is_refused(address, tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{address}"\n')
    monkeypatch.setattr(links, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="expected https://github.com/OWNER/NAME"):
        links.repository()


def test_the_address_is_read_from_the_project_s_urls(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{ADDRESS}.git"\n')
    monkeypatch.setattr(links, "ROOT", tmp_path)
    assert links.repository() == ADDRESS


# ----------------------------------------------------------------------------------- the first cell


def run_first_cell(folder, monkeypatch, address="", is_installed=False):
    """The first cell in `folder`; what it leaves in sys.path and what it started."""
    started = []

    def run(words, check):
        started.append(words)
        (folder / "simlab" / "simlab").mkdir(parents=True)
        (folder / "simlab" / "simlab" / "__init__.py").touch()

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: is_installed or None)
    monkeypatch.setattr(subprocess, "run", run)
    exec(links.first_cell(address), {})
    return list(sys.path), started


def test_the_first_cell_finds_a_clone_around_or_beside_the_notebook(tmp_path, monkeypatch):
    home = tmp_path / "simlab"
    (home / "simlab").mkdir(parents=True)
    (home / "simlab" / "__init__.py").touch()
    (home / "notebooks" / "exercises").mkdir(parents=True)
    for folder in (tmp_path, home, home / "notebooks" / "exercises"):
        path, started = run_first_cell(folder, monkeypatch, ADDRESS)
        assert path[0] == str(home) and not started
        assert run_first_cell(folder, monkeypatch)[0].count(str(home)) == 1, "twice does no harm"


def test_the_first_cell_of_a_notebook_opened_alone_clones_or_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(AssertionError, match="clone its repository"):
        run_first_cell(tmp_path, monkeypatch)
    assert not run_first_cell(tmp_path, monkeypatch, is_installed=True)[1], "a wheel is enough"
    path, (words,) = run_first_cell(tmp_path, monkeypatch, ADDRESS)
    assert words == ["git", "clone", "--quiet", "--depth=1", ADDRESS, "simlab"]
    assert path[0] == str(tmp_path / "simlab")


def test_a_folder_that_is_only_called_simlab_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "simlab").mkdir()  # Python takes it for a package without an __init__.py
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), sys.path[-1]])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "simlab" or None)
    with pytest.raises(AssertionError, match="clone its repository"):
        exec(links.first_cell(""), {})


@pytest.mark.parametrize("address", ["", ADDRESS])
def test_the_first_cell_is_plain_python_of_a_dozen_lines(address):
    source = links.first_cell(address)
    ast.parse(source)
    assert len(source.splitlines()) <= 16 and max(map(len, source.splitlines())) <= 99
