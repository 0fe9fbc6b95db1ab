"""The tables in notebooks/tables: CSV, below lines that begin with # and say how it was made."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from simlab.compute.devices import environment, resolve_device
from simlab.runs import write_bytes

TABLES = Path(__file__).parent.parent / "notebooks" / "tables"


def write_table(
    name: str, table: pd.DataFrame, how: Sequence[str], float_format: str = "%.4g"
) -> None:
    """Write NAME.csv.

    Args:
        name: Of the file, without its ending.
        table: The rows.
        how: The command that makes it, and what else decides its numbers, a line each; the machine
            and the versions follow.
        float_format: Of the numbers.
    """
    lines = [*how, str(environment(resolve_device("auto")))]
    text = "".join(f"# {line}\n" for line in lines)
    text += table.to_csv(index=False, float_format=float_format)
    TABLES.mkdir(exist_ok=True)
    write_bytes(TABLES / f"{name}.csv", text.encode())
