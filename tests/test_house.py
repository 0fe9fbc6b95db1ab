"""The house itself: what the listing says, what imports what, and how the code reads."""

import ast
import io
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SIMLAB = ROOT / "simlab"
PACKAGES = (SIMLAB, ROOT / "simlab_course")
FILES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))

# A floor may import those below it, and none above. What stands on one floor knows only itself.
FLOORS = (
    {"simlab_course"},
    {"simlab.__main__"},
    {"simlab.cli"},
    {"simlab.sweeps"},
    {"simlab.evaluate.bench"},
    {"simlab.train"},
    {"simlab.methods", "simlab.runs"},
    {"simlab.evaluate"},
    {"simlab.data"},
    {"simlab.augment", "simlab.models"},
    {"simlab.config", "simlab.stats"},
    {"simlab.compute"},
    {"simlab._checks", "simlab.sim", "simlab.similarity", "simlab.vector"},
    {"simlab.layers"},
)
# These are copied into other projects: sim and similarity with layers, vector.py alone.
LIFTABLE = {"simlab.sim": {"simlab.layers"}, "simlab.similarity": {"simlab.layers"}}
LIFTABLE |= {"simlab.vector": set(), "simlab.layers": set()}

# What a learner reads in one sitting, in this order.
READING_PATH = (
    "data/images.py",
    "augment/views.py",
    "models/encoders.py",
    "models/heads.py",
    "methods/simsiam.py",
    "train/loop.py",
)


# Part of a package to its users, but on a floor of its own.
APART = "simlab.evaluate.bench"


def room_of(module):
    """simlab.data.folders -> simlab.data; simlab_course.widgets -> simlab_course."""
    if f"{module}.".startswith(f"{APART}."):
        return APART
    parts = module.split(".")
    return parts[0] if parts[0] == "simlab_course" else ".".join(parts[:2])


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _walk_what_runs(tree):
    """Every node but those below `if TYPE_CHECKING:`, which only a type checker reads."""
    ahead = [tree]
    while ahead:
        node = ahead.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        ahead += ast.iter_child_nodes(node)


def imported_modules(path):
    """The modules of the house that a file imports, at its top or inside of a function."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names = set()
    for node in _walk_what_runs(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = ".".join(base) if node.level else ""
            target = ".".join(filter(None, (start, node.module)))
            # "from simlab import vector" names a module, "from simlab.data import Images" does not
            if target in ("simlab", "simlab_course", package) and target != node.module:
                names |= {f"{target}.{alias.name}" for alias in node.names}
            elif target == "simlab":
                names |= {f"simlab.{alias.name}" for alias in node.names}
            else:
                names.add(target)
    return {name for name in names if name.split(".")[0] in ("simlab", "simlab_course")}


def import_graph():
    return {module_of(path): imported_modules(path) for path in FILES}


def floor_of(room):
    return next(i for i, floor in enumerate(FLOORS) if room in floor)


# ---------------------------------------------------------------------------------- the listing


def test_the_listing_is_short():
    entries = [p.name for p in SIMLAB.iterdir() if p.name not in ("__pycache__", "_data")]
    assert len(entries) <= 20, sorted(entries)


def test_every_package_has_at_least_two_files():
    for folder in {path.parent for path in FILES} - {SIMLAB}:
        files = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
        assert len(files) >= 2, folder


def test_every_room_stands_on_one_floor():
    rooms = {room_of(module_of(path)) for path in FILES} - {"simlab"}
    floors = [room for floor in FLOORS for room in floor]
    assert rooms == set(floors) and len(floors) == len(set(floors))


# ------------------------------------------------------------------------------------- imports


def test_imports_run_one_way():
    graph = import_graph()
    assert "simlab.layers" in graph["simlab.sim.attach"], "the parser finds nothing"
    for module, targets in graph.items():
        if module == "simlab":
            continue  # the public names, by name alone
        room = room_of(module)
        for target in {room_of(t) for t in targets} - {room, "simlab"}:
            assert floor_of(target) > floor_of(room), f"{module} imports {target} from above"


def test_no_file_imports_itself_in_the_end():
    graph = import_graph()
    for start in graph:
        reached, ahead = set(), [start]
        while ahead:
            for name in graph.get(ahead.pop(), ()):
                # the __init__ of a package gathers its files and is not imported by them
                if name not in reached:
                    reached.add(name)
                    ahead.append(name)
        assert start not in reached, f"{start} is part of a circle"


@pytest.mark.parametrize("room", LIFTABLE)
def test_what_can_be_copied_imports_nothing_else_of_simlab(room):
    for module, targets in import_graph().items():
        if room_of(module) == room:
            assert {room_of(t) for t in targets} - {room} <= LIFTABLE[room], module


@pytest.mark.long
def test_what_can_be_copied_works_alone(tmp_path):
    """In somebody's package: sim and similarity beside layers, and vector.py."""
    mylab = tmp_path / "mylab"
    mylab.mkdir()
    (mylab / "__init__.py").touch()
    for name in ("layers", "sim", "similarity"):
        shutil.copytree(SIMLAB / name, mylab / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SIMLAB / "vector.py", mylab)
    code = (
        "import sys; sys.path.insert(0, '.'); import mylab.sim, mylab.similarity, mylab.vector;"
        "assert not any(name.startswith('simlab') for name in sys.modules)"
    )
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["simlab", "simlab.config", "simlab.methods"])
def test_what_every_command_imports_is_light(module):
    heavy = "{'torch', 'torchvision', 'pandas', 'matplotlib', 'sklearn', 'scipy', 'numpy'}"
    code = f"import sys, {module}; loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------- reading


def code_lines(source):
    """The lines that hold code, not blank, comment or docstring, with their number of tokens."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            docstrings |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    counts = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type not in (*quiet, tokenize.ENDMARKER) and line not in docstrings:
            counts[line] = counts.get(line, 0) + 1
    return counts


def test_code_lines_are_counted_without_the_words_about_them():
    source = '"""One\n\ntwo."""\n# three\nx = 1  # four\n\n\ndef f():\n    "Five."\n    return x\n'
    assert code_lines(source) == {5: 3, 8: 5, 10: 2}


def test_a_line_holds_one_thought():
    """9.5 tokens on average, where codebases that are read with pleasure have 7 to 8.5."""
    lines = [code_lines(path.read_text(encoding="utf-8")) for path in SIMLAB.rglob("*.py")]
    number = sum(map(len, lines))
    tokens = sum(sum(counts.values()) for counts in lines)
    assert number > 4000 and tokens / number <= 9.5, tokens / number


@every_file
def test_a_file_is_read_in_one_go(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


@every_file
def test_no_function_is_longer_than_a_screen(path):
    source = path.read_text(encoding="utf-8")
    counts = code_lines(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            length = sum(node.lineno <= line <= node.end_lineno for line in counts)
            assert length <= 60, f"{node.name}: {length} lines of code"


def test_the_method_reads_in_one_sitting():
    lines = {name: len((SIMLAB / name).read_text().splitlines()) for name in READING_PATH}
    assert sum(lines.values()) < 900, lines


@every_file
def test_what_is_public_says_what_it_does(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
        assert not public or ast.get_docstring(node), node.name


def ignored_lines():
    marks = ("type: ignore", "noqa")
    for path in FILES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if any(mark in line for mark in marks):
                yield f"{path.relative_to(ROOT)}:{number}", line


def test_few_lines_are_hidden_from_the_checkers_and_each_says_why():
    lines = dict(ignored_lines())
    assert len(lines) <= 30, sorted(lines)
    for place, line in lines.items():
        comment = line.split("#", 1)[1]
        reason = comment.replace("type: ignore", "").replace("noqa", "")
        assert len(reason.split()) >= 4, f"{place} gives no reason: {line.strip()}"
