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
    "simlab_course.diagrams",
    "simlab_course.inside",
    "simlab_course.collapse",
    "simlab_course.style",
    "simlab_course.tables",
    "simlab_course.encoders",
    "simlab_course.packages",
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
        rows.append(f"   * - :py:obj:`simlab.{name} <simlab.{home_of(name)}.{name}>`")
        rows.append(f"     - {first_sentence(getattr(simlab, name))}")
    table = "\n".join([".. list-table::", "   :widths: 35 65", "", *rows])
    contents = "\n".join([".. toctree::", "   :maxdepth: 1", "", *(f"   {p}" for p in PACKAGES)])
    return (
        f"{title('API reference', '=')}\n{INTRODUCTION}\n{table}\n\n{PACKAGES_BELOW}\n{contents}\n"
    )


INTRODUCTION = """The names that most people need are in ``simlab`` itself. Each leads to its entry
on its package's page, and *[source]* from there to the code.
"""

PACKAGES_BELOW = """The packages, in the order of the method; then what can be used alone, what
all stand on, and the lessons' figures and widgets:
"""


def home_of(name: str) -> str:
    """load_data -> data"""
    return simlab._HOMES[name]


def first_sentence(value: object) -> str:
    text = inspect.getdoc(value) or ""
    return re.split(r"(?<=[.:])\s", text.replace("\n", " "), maxsplit=1)[0].rstrip(":")


def module_page(name: str) -> str:
    """A module without files of its own: what is public and defined in it."""
    return f"{title(name, '=')}\n.. automodule:: {name}\n   :members:\n   :ignore-module-all:\n"


def package_page(package: ModuleType) -> str:
    """What a package's ``__all__`` names, by the files that it is from."""
    name = package.__name__
    parts = [title(name, "="), f".. automodule:: {name}\n"]
    for home, names in by_home(package).items():
        if home == name:
            parts += [directive(package, each) for each in names]
        elif not home.startswith(f"{name}."):
            parts.append(from_elsewhere(home, names))
        else:
            parts.append(title(home.removeprefix(f"{name}."), "-"))
            parts.append(module_docstring(package, home))
            parts += [directive(package, each) for each in names]
            if name == "simlab.methods":
                parts.append(method_module(home, names))
    return "\n".join(parts)


def module_docstring(package: ModuleType, home: str) -> str:
    """What a file says about itself; its name is left to a function that is called alike."""
    text = f".. automodule:: {home}\n"
    if home.rpartition(".")[2] in package.__all__:
        text += "   :no-index:\n"
    return text


def from_elsewhere(home: str, names: list[str]) -> str:
    """Names that a package passes on from another one, where they are described."""
    package = ".".join(home.split(".")[:2])
    links = [f":py:obj:`{name} <{package}.{name}>`" for name in names]
    return f"{title(package, '-')}\nFrom there: {', '.join(links)}.\n"


def by_home(package: ModuleType) -> dict[str, list[str]]:
    """The public names by the module that each is from, in the order of the package's docstring."""
    name = package.__name__
    sources = imported_from(package)
    homes: dict[str, list[str]] = {}
    for each in package.__all__:
        homes.setdefault(sources.get(each, name), []).append(each)
    _, _, text = (package.__doc__ or "").partition("\n\n")  # below its first line
    methods = [entry.module for entry in getattr(package, "METHODS", {}).values()]

    def place(home: str) -> tuple[int, int]:
        """The package itself first, then where its docstring names a file, then all others."""
        if home == name:
            return (-1, 0)
        if home in methods:
            return (len(text), 1 + methods.index(home))
        if not home.startswith(f"{name}."):
            return (len(text), 1000)
        at = re.search(rf"\b{home.rpartition('.')[2]}\b", text)
        at = at or re.search(rf"\b{home.split('.')[2]}\b", text)
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


def aliases() -> dict[str, str]:
    """Where a public name is described, by the module that defines it: what code links need."""
    names = {}
    for package_name in PACKAGES:
        package = importlib.import_module(package_name)
        for name in getattr(package, "__all__", []):
            value = getattr(package, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                described = f"{package_name}.{name}"
                defined = f"{value.__module__}.{value.__qualname__}"
                if defined.startswith(package_name) and defined != described:
                    names[defined] = described
    return names


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
