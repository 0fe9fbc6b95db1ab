"""What the first cell of a notebook calls: install the packages that simlab needs and lacks here.

It is for Colab, and for a notebook that was opened with nothing but a clone of simlab beside it.
What is there in a version that will do stays as it is. Nothing but Python's own is imported here.
"""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"  # of a clone; a wheel has none
WIDGETS = "ipywidgets>=7.7"  # all that a lesson needs of the extra `notebooks`


def install_missing() -> None:
    """Install what is missing or too old, and nothing else.

    Raises:
        RuntimeError: pip failed; the message has what to install.
    """
    needs = [need for need in requirements() if not is_installed(need)]
    if not needs:
        return
    outdated = [name_of(need) for need in needs if installed_version(name_of(need))]
    print(f"installing {', '.join(needs)} ...", flush=True)
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *needs])
    if done.returncode:
        words = " ".join(f'"{need}"' for need in needs)
        raise RuntimeError(f"pip could not install what is missing here: pip install {words}")
    if outdated:
        print(f"restart the kernel, which may have loaded an older {', '.join(outdated)}")


def requirements() -> list[str]:
    """List what the lessons need, such as "torch>=2.6".

    An installed wheel brought simlab's own packages, and only the widgets can be missing.
    """
    if not PYPROJECT.exists():
        return [WIDGETS]
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], WIDGETS]


def is_installed(requirement: str) -> bool:
    """Tell whether a package is there, in the lowest version that will do or a higher one."""
    present = installed_version(name_of(requirement))
    lowest = requirement.partition(">=")[2]
    return bool(present) and _numbers(present) >= _numbers(lowest)


def name_of(requirement: str) -> str:
    """Return the package of a requirement: "torch>=2.6" -> "torch"."""
    return requirement.partition(">=")[0]


def installed_version(package: str) -> str:
    """Return the version of a package that is installed, empty where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _numbers(text: str) -> tuple[int, ...]:
    """Read the first two numbers of a version: "2.11.0+cpu" -> (2, 11)."""
    return tuple(int(digits) for digits in re.findall(r"\d+", text)[:2])
