"""The face: what `simlab.<tab>` shows, and that each name is there without anything heavy."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import simlab

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", simlab.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    value = getattr(simlab, name)
    assert inspect.getdoc(value), name
    assert not inspect.ismodule(value), name


def test_there_are_at_most_forty_and_tab_shows_just_them():
    assert 14 <= len(simlab.__all__) <= 40
    assert set(dir(simlab)) == {*simlab.__all__, "__version__"}


def test_a_name_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match="simlab has no 'load_date'; did you mean 'load_data'"):
        _ = simlab.load_date


def test_type_checkers_see_the_same_names():
    tree = ast.parse((ROOT / "simlab" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = {f"{n.module}:{alias.name}" for n in block.body for alias in n.names}
    assert names == {f"simlab.{home}:{name}" for name, home in simlab._HOMES.items()}


def test_importing_simlab_imports_nothing_but_the_standard_library():
    code = (
        "import sys; before = set(sys.modules); import simlab; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names) - {'simlab'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_no_public_function_takes_options_without_names():
    for name in simlab.__all__:
        value = getattr(simlab, name)
        if inspect.isfunction(value):
            kinds = {p.kind for p in inspect.signature(value).parameters.values()}
            assert inspect.Parameter.VAR_KEYWORD not in kinds, f"{name} takes **options"


def test_the_types_are_for_users_too():
    assert (ROOT / "simlab" / "py.typed").exists()
