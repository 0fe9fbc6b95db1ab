"""A result as a file: one .npz of arrays and JSON, in which nothing can run code."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .info import Info, Layer

ARRAYS = ("values", "group_sums", "nulls")


def save(
    path: Path, meta: Mapping[str, Any], arrays: Mapping[str, Mapping[str, np.ndarray]]
) -> Path:
    """Write a result, to a temporary name first.

    Args:
        path: of the file.
        meta: all that JSON can hold.
        arrays: {kind: {measure: array}}.

    Returns:
        The path.
    """
    named: dict[str, Any] = {"meta": np.array(json.dumps(meta, default=str))}
    for kind, of_kind in arrays.items():
        for measure, array in of_kind.items():
            named[f"{kind}:{measure}"] = array
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **named)
    return temporary.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Read the fields of a result.

    Raises:
        ValueError: it is no saved Result.
    """
    with np.load(path, allow_pickle=False) as file:
        if "meta" not in file.files:
            raise ValueError(f"{path} is no saved Result: it has no entry 'meta'")
        meta: dict[str, Any] = json.loads(str(file["meta"]))
        arrays: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in ARRAYS}
        for key in file.files:
            if key != "meta":
                kind, measure = key.split(":", 1)
                arrays[kind][measure] = file[key]
    layers = [Layer(**layer | {"shape": tuple(layer["shape"])}) for layer in meta["layers"]]
    limits = {}
    for name, ends in meta["info"]["limits"].items():
        limits[name] = None if ends is None else tuple(ends)
    info = Info(**meta["info"] | {"limits": limits})
    return meta | {"layers": layers, "info": info} | arrays
