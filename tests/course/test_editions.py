"""The exercises' two editions: nothing of a solution reaches a student, and a teacher has it all."""

import re

import editions
import nbformat
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("editions")
    editions.write_editions(out)
    return out


def sources_of(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def test_both_editions_have_every_sheet_and_its_checks(folder):
    names = {path.name for path in editions.SOURCE.glob("*.ipynb")}
    for name in ("student", "instructor"):
        assert {path.name for path in (folder / name).glob("*.ipynb")} == names
        assert (folder / name / "checks" / "judge.py").exists()


def test_students_get_no_solution_and_no_notes_on_marking(folder):
    for path in editions.SOURCE.glob("*.ipynb"):
        given = "\n".join(sources_of(folder / "student" / path.name))
        assert "## " in given and "Hint 1" in given, "tasks and hints stay"
        assert "Solution" not in given and "For teachers" not in given
        assert "solution is" not in given, "nor a promise of one"
        for source in sources_of(path):
            if source.startswith(editions.SOLUTION):
                code = re.search(r"```python\n(.*?)\n```", source, re.DOTALL)[1]
                lines = [line.strip() for line in code.splitlines() if "def " not in line]
                longest = max(lines, key=len)
                assert longest not in given, f"{path.name}: {longest}"


def test_instructors_get_answers_filled_in_rubrics_and_a_project(folder):
    for path in sorted(editions.SOURCE.glob("*.ipynb")):
        cells = nbformat.read(folder / "instructor" / path.name, as_version=4).cells
        answers = [c.source for c in cells if "answer" in editions.tags_of(c)]
        assert answers and not any(re.search(r"^\s*\.\.\.$|: None,", a, re.M) for a in answers)
        text = "\n".join(c.source for c in cells)
        assert text.count("**For teachers: how to mark it**") == len(answers) + 1
        assert "## Project" in text and "## To read" in text and "| 0 | 1 | 2 |" in text
        for cell in cells:
            if cell.cell_type == "markdown" and "**Solution**" in cell.source:
                assert "<details>" not in cell.source, "unfolded"


def test_links_of_an_edition_lead_to_the_course(folder):
    for path in folder.rglob("*.ipynb"):
        for source in sources_of(path):
            prose = re.sub(r"```.*?```|`[^`]*`", " ", source, flags=re.DOTALL)
            for target in re.findall(r"\]\((?![a-z]+:)([^)\s#]+)", prose):
                assert (path.parent / target).exists(), f"{path}: {target}"
