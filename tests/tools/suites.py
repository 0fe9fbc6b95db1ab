"""Know which test files import which module, and which tests are the same in two suites.

Nothing is run here: all is read from the sources, so it holds for any layout of the package.
"""

from __future__ import annotations

import ast
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path


def package_folders(root: Path) -> list[Path]:
    """Return the folders of the packages that a checkout's wheel would hold."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return [
        root / name for name in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    ]


def module_name(path: Path, package: Path) -> str:
    """Return the dotted name of a source file of a package."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


class Package:
    """The modules of the packages, and which module imports which."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = package_folders(root)
        self.files = {
            module_name(path, folder): path
            for folder in self.folders
            for path in sorted(folder.rglob("*.py"))
        }
        self.roots = {folder.name for folder in self.folders}
        self.defines = {name: top_level_names(parse(path)) for name, path in self.files.items()}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """For each module the modules of the package that it imports itself."""
        return {
            name: self.imported_by(parse(path), name, path.name == "__init__.py")
            for name, path in self.files.items()
        }

    def is_package(self, name: str) -> bool:
        return name in self.files and self.files[name].name == "__init__.py"

    def resolve(self, base: str, attribute: str) -> set[str]:
        """Return the modules meant by `from base import attribute`.

        A name that a package hands on, eagerly or lazily, means the module that defines it.
        """
        if f"{base}.{attribute}" in self.files:
            return {f"{base}.{attribute}"}
        if not self.is_package(base) or attribute in self.defines[base]:
            return {base} & self.files.keys()
        below = [name for name in self.files if name.startswith(base + ".")]
        return {name for name in below if attribute in self.defines[name]} or {base}

    def imported_by(self, tree: ast.AST, module: str = "", is_package: bool = False) -> set[str]:
        """Return the modules that a source imports or names.

        Args:
            tree: the source; code in its strings (for subprocesses) counts too.
            module: its own dotted name, if it belongs to a package: relative imports start there.
            is_package: whether it is an `__init__.py`.
        """
        modules: set[str] = set()
        packages: dict[str, str] = {}  # variable -> the package that it is bound to
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    modules |= self.files.keys() & {alias.name}
                    packages[alias.asname or alias.name.split(".")[0]] = alias.name
            elif isinstance(node, ast.ImportFrom):
                base = self.import_base(node, module, is_package)
                for alias in node.names:
                    modules |= self.resolve(base, alias.name)
                    packages[alias.asname or alias.name] = f"{base}.{alias.name}"
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                modules |= self.named_in(node.value)
        for node in ast.walk(tree):  # similarity.compare(...), where similarity is a package
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                base = packages.get(node.value.id, "")
                if self.is_package(base):
                    modules |= self.resolve(base, node.attr)
        return modules

    @staticmethod
    def import_base(node: ast.ImportFrom, module: str, is_package: bool) -> str:
        """Return the absolute name of what stands between `from` and `import`."""
        if not node.level:
            return node.module or ""
        levels_up = node.level - 1 if is_package else node.level
        parents = module.split(".")
        base = ".".join(parents[: len(parents) - levels_up])
        return f"{base}.{node.module}" if node.module else base

    def named_in(self, text: str) -> set[str]:
        """Return the modules that a string names: `-m simlab`, a dotted path, a piece of code."""
        if text in self.roots:
            return {f"{text}.__main__"} & self.files.keys()
        if not any(root in text for root in self.roots):
            return set()
        base, _, attribute = text.rpartition(".")
        if base in self.files:
            return self.resolve(base, attribute)
        if "import " not in text:
            return set()
        try:
            return self.imported_by(ast.parse(textwrap.dedent(text)))
        except SyntaxError:
            return set()

    def distances(self, modules: set[str]) -> dict[str, int]:
        """Return how many imports away each module is from one of `modules`, which are 1."""
        distance = dict.fromkeys(modules, 1)
        frontier = modules
        while frontier:
            step = max(distance.values()) + 1
            frontier = set().union(*(self.imports[name] for name in frontier)) - distance.keys()
            distance |= dict.fromkeys(frontier, step)
        return distance


class Suite:
    """A folder of tests, in a checkout of its own."""

    def __init__(self, name: str, folder: Path, package: Package) -> None:
        self.name = name
        self.folder = folder.resolve()
        self.root = self.folder.parent
        self.package = package
        self.files = sorted(self.folder.rglob("test_*.py"))

    @cached_property
    def helpers(self) -> dict[str, Path]:
        """The checkout's other importable files by their names, as tests import them."""
        paths = [
            path
            for folder in ("notebooks", self.folder.name)
            for path in (self.root / folder).rglob("*.py")
        ]
        return {path.stem: path for path in paths if path not in self.files}

    def imported_by(self, path: Path, seen: frozenset[Path] = frozenset()) -> set[str]:
        """Return the modules that a test file imports, itself or through its helpers."""
        tree = parse(path)
        modules = self.package.imported_by(tree)
        for name in imported_names(tree) | self.conftest_of(tree):
            name = name.rpartition(".")[2]  # tests.helpers or helpers
            helper = self.helpers.get(name)
            if helper and helper not in seen:
                modules |= self.imported_by(helper, seen | {path})
        return modules

    def conftest_of(self, tree: ast.Module) -> set[str]:
        """Return {"conftest"} where a test asks for one of the conftest's fixtures."""
        if "conftest" not in self.helpers:
            return set()
        arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        return (
            {"conftest"} if arguments & top_level_names(parse(self.helpers["conftest"])) else set()
        )

    @cached_property
    def distances(self) -> dict[Path, dict[str, int]]:
        """How many imports away each module is from each test file."""
        return {path: self.package.distances(self.imported_by(path)) for path in self.files}

    def files_for(self, module: str, reach: int = 1) -> list[Path]:
        """Return the test files that import a module.

        Args:
            module: its dotted name.
            reach: through how many imports at most; where no file comes so near, the nearest.
        """
        away = {path: seen[module] for path, seen in self.distances.items() if module in seen}
        limit = max(reach, min(away.values(), default=0))
        return [path for path, distance in away.items() if distance <= limit]

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """The text of each test by its id, `tests/test_file.py::test_name`: equal is the same."""
        return {
            f"{path.relative_to(self.root).as_posix()}::{name}": text
            for path in self.files
            for name, text in fingerprints(path, self.helpers.get("conftest")).items()
        }


def without_parameters(test: str) -> str:
    """Return the id of a test function or class: no parameters, no members of the class."""
    return "::".join(test.split("[")[0].split("::")[:2])


def imported_names(tree: ast.AST) -> set[str]:
    """Return the modules that a source imports by their full names, as they are written."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def definitions(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Yield the names that a module's top level defines, each with its statement."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for name in (child for target in targets for child in ast.walk(target)):
                if isinstance(name, ast.Name):
                    yield name.id, node


def top_level_names(tree: ast.Module) -> set[str]:
    return {name for name, _ in definitions(tree)}


def without_marks(node: ast.stmt) -> ast.stmt:
    """Take off the plain marks (slow, a group): they say when a test runs, not what it asks."""
    marks = [
        mark
        for mark in getattr(node, "decorator_list", [])
        if ast.unparse(mark).startswith("pytest.mark.")
    ]
    for mark in marks:
        if not isinstance(mark, ast.Call) or "xdist_group" in ast.unparse(mark):
            node.decorator_list.remove(mark)
    return node


def fingerprints(path: Path, conftest: Path | None) -> dict[str, str]:
    """Return the text of each test of a file, with all that it uses of the file and the conftest."""
    trees = [parse(file) for file in (conftest, path) if file]
    defined = {name: without_marks(node) for tree in trees for name, node in definitions(tree)}
    texts = {}
    for test in (name for name in top_level_names(trees[-1]) if name.lower().startswith("test")):
        used, waiting = {}, [test]
        while waiting:
            name = waiting.pop()
            if name in used or name not in defined:
                continue
            used[name] = ast.dump(defined[name])
            for node in ast.walk(defined[name]):
                waiting.append(getattr(node, "id", None) or getattr(node, "arg", None) or "")
        texts[test] = "\n".join(used[name] for name in sorted(used))
    return texts
