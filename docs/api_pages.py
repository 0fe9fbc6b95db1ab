"""The pages of the API reference: one for each package, its files in the order they are read in."""

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import simlab

# in the order of the method; below them what can be used alone, and what all stand on
PACKAGES = (
    "simlab.data",
    "simlab.augment",
    "simlab.models",
    "simlab.methods",
    "simlab.train",
    "simlab.runs",
    "simlab.evaluate",
    "simlab.sweeps",
    "simlab.stats",
    "simlab.sim",
    "simlab.similarity",
    "simlab.vector",
    "simlab.config",
    "simlab.layers",
    "simlab.compute",
    "simlab_course.widgets",
    "simlab_course.figures",
    "simlab_course.style",
    "simlab_course.tables",
)


def pages() -> dict[str, str]:
    """File names and reStructuredText of all pages."""
    texts = {"index.rst": index_page()}
    for name in PACKAGES:
        module = importlib.import_module(name)
        texts[f"{name}.rst"] = package_page(module) if is_package(module) else module_page(name)
    return texts


def is_package(module: ModuleType) -> bool:
    return hasattr(module, "__path__")


def index_page() -> str:
    """The names that `simlab` has itself, and the packages."""
    rows = []
    for name in simlab.__all__:
        summary = first_sentence(getattr(simlab, name))
        rows.append(f"   * - :py:obj:`simlab.{name} <{simlab.__name__}.{home_of(name)}.{name}>`")
        rows.append(f"     - {summary}")
    table = "\n".join([".. list-table::", "   :widths: 35 65", "", *rows])
    contents = "\n".join([".. toctree::", "   :maxdepth: 1", "", *(f"   {p}" for p in PACKAGES)])
    return (
        f"{title('API reference', '=')}\n{INTRODUCTION}\n{table}\n\n{PACKAGES_BELOW}\n{contents}\n"
    )


INTRODUCTION = """The names that most people need are in ``simlab`` itself. Each leads to its entry
on its package's page, and *[source]* from there to the code.
"""

PACKAGES_BELOW = """The packages, in the order of the method; then what can be used alone, what all stand
on, and the lessons' figures and widgets:
"""


def home_of(name: str) -> str:
    """load_data -> data"""
    return simlab._HOMES[name]


def first_sentence(value: object) -> str:
    text = inspect.getdoc(value) or ""
    return re.split(r"(?<=[.:])\s", text.replace("\n", " "), maxsplit=1)[0].rstrip(":")


def module_page(name: str) -> str:
    """A module without files of its own: everything public in it."""
    return f"{title(name, '=')}\n.. automodule:: {name}\n   :members:\n"


def package_page(package: ModuleType) -> str:
    """What a package's ``__all__`` names, by the files that it is from."""
    parts = [title(package.__name__, "="), f".. automodule:: {package.__name__}\n"]
    for home, names in by_home(package).items():
        if home == package.__name__:
            parts += [directive(package, name) for name in names]
            continue
        parts.append(title(home.removeprefix(f"{package.__name__}."), "-"))
        if not home.startswith(f"{package.__name__}."):
            names = [f":py:obj:`{name} <{home}.{name}>`" for name in names]
            parts.append(f"From there: {', '.join(names)}.\n")
            continue
        parts.append(f".. automodule:: {home}\n")
        parts += [directive(package, name) for name in names]
        if package.__name__ == "simlab.methods":
            parts.append(method_module(home, names))
    return "\n".join(parts)


def by_home(package: ModuleType) -> dict[str, list[str]]:
    """The public names by the module that each is from, in the order of the package's docstring."""
    sources = imported_from(package)
    homes: dict[str, list[str]] = {}
    for name in package.__all__:
        homes.setdefault(sources.get(name, package.__name__), []).append(name)
    text = package.__doc__ or ""
    methods = [entry.module for entry in getattr(package, "METHODS", {}).values()]

    def place(home: str) -> tuple[int, int]:
        """Where the docstring names it; methods stand in the order of METHODS."""
        if home in methods:
            return len(text), methods.index(home)
        at = re.search(rf"\b{home.removeprefix(package.__name__ + '.')}\b", text)
        return (at.start() if at else len(text), 0)

    return {home: homes[home] for home in sorted(homes, key=place)}


def imported_from(package: ModuleType) -> dict[str, str]:
    """Public names and the full names of the modules that they are imported from.

    Those which a subpackage gathers are followed into its files.
    """
    tree = ast.parse(Path(package.__file__ or "").read_text(encoding="utf-8"))
    sources = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            base = package.__name__.split(".")
            parent = ".".join(base[: len(base) - node.level + 1])
            home = f"{parent}.{node.module}" if node.module else parent
        else:
            home = node.module or ""
        if home.partition(".")[0] != package.__name__.partition(".")[0]:
            continue
        module = importlib.import_module(home)
        below = imported_from(module) if is_package(module) else {}
        for alias in node.names:
            sources[alias.name] = below.get(alias.name, home)
    return sources


def directive(package: ModuleType, name: str) -> str:
    value = getattr(package, name)
    if inspect.isclass(value):
        return f".. autoclass:: {package.__name__}.{name}\n   :members:\n"
    if inspect.isroutine(value):
        return f".. autofunction:: {package.__name__}.{name}\n"
    return f".. autodata:: {package.__name__}.{name}\n   :no-value:\n"


def method_module(home: str, names: list[str]) -> str:
    """The module that a method trains, which a method of one's own may inherit from."""
    module = importlib.import_module(home)
    classes = [
        name for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == home and name.endswith("Module")
        and name not in names
    ]  # fmt: skip
    return "\n".join(f".. autoclass:: {home}.{name}\n   :members:\n" for name in classes)


def title(text: str, line: str) -> str:
    return textwrap.dedent(f"{text}\n{line * len(text)}\n")
