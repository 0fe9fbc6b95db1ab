"""A result as one long table."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from .info import Layer
    from .result import Result


def tidy(result: "Result") -> "pd.DataFrame":
    """Make a table with a line for each measure and pair of layers.

    Args:
        result: of `compare`.

    Returns:
        The columns measure, model_1, layer_1, model_2, layer_2, value; low and high, the ends of
        the 95 % interval, and p, its p-value, NaN where there is none; reason, why there is no
        value, else empty.
    """
    import pandas as pd

    lines = []
    for measure in result.values:
        for a in result.models:
            for b in result.models:
                lines += _lines_of_pair(result, measure, a, b)
    return pd.DataFrame(lines)


def _lines_of_pair(result: "Result", measure: str, a: str, b: str) -> list[dict[str, Any]]:
    """The lines of one measure and two models."""
    rows = result.layers_of(a)
    columns = result.layers_of(b)
    missing = np.full((len(rows), len(columns)), np.nan)
    low = high = p = missing
    left_out = measure in result.info.across and a == b
    if result.has_interval(measure) and not left_out:
        low, high = result.interval(a, b, measure)
    known_kind = result.info.kinds[measure] != "measure"
    if measure in result.nulls and known_kind and not left_out:
        p = result.p_values(a, b, measure)
    lines = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            value = result.values[measure][row.row, column.row]
            line = {"measure": measure, "model_1": a, "layer_1": row.name}
            line |= {"model_2": b, "layer_2": column.name, "value": value}
            line |= {"low": low[i, j], "high": high[i, j], "p": p[i, j]}
            line["reason"] = _reason(result, measure, row, column) if np.isnan(value) else ""
            lines.append(line)
    return lines


def _reason(result: "Result", measure: str, row: "Layer", column: "Layer") -> str:
    """Why a pair of layers has no value."""
    for layer in (row, column):
        for label in (layer.label, f"{layer.label} ({measure})"):
            if label in result.reasons:
                return f"{layer.label}: {result.reasons[label]}"
    if measure in result.info.across and row.model == column.model:
        return "computed across models only"
    return "undefined for this pair"
