"""Where the tables of precomputed runs are, which the notebooks read."""

from pathlib import Path

from simlab._checks import near

HERE = Path(__file__).parent
PLACES = (HERE / "_tables", HERE.parent / "notebooks" / "tables")  # of the wheel, of a checkout


def table_path(name: str) -> Path:
    """Return the path of a table such as "default_run.csv", wherever simlab is installed.

    Raises:
        FileNotFoundError: There is no such table; the message names the nearest one.
    """
    folder = next((place for place in PLACES if place.is_dir()), PLACES[0])
    path = folder / name
    if not path.exists():
        names = [table.name for table in folder.glob("*.csv")]
        raise FileNotFoundError(f"there is no table {name!r} in {folder}{near(name, names)}")
    return path
