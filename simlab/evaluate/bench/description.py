"""Everything that decides an evaluation's numbers, as it is written beside them."""

import json
import re
from dataclasses import asdict
from typing import Any

from simlab.data import Dataset
from simlab.evaluate.probe import REGULARISERS
from simlab.runs import digest
from simlab.runs.sources import simlab_version

from .plan import Plan
from .settings import FINETUNING_RATES, HELD_OUT, KNN_K, KNN_TEMPERATURES
from .sources import weights_digest

# what an evaluation is known by; the rest tells how it went
IDENTITY = ("simlab", "encoder", "input", "data", "protocols", "layers", "seeds", "baselines")
IDENTITY_SETTINGS = ("settings", "chosen_among")


def describe(plan: Plan) -> dict[str, Any]:
    """Return what decides the numbers of a plan."""
    source = plan.source
    return {
        "simlab": simlab_version(),
        "encoder": {"name": source.name, "digest": weights_digest(source.first)} | source.details,
        "input": {data.name: source.input_for(data).to_dict() for data in plan.datasets},
        "data": {data.name: _describe_data(data) for data in plan.datasets},
        "protocols": [protocol.name for protocol in plan.protocols],
        "layers": list(plan.layers),
        "seeds": plan.seeds,
        "baselines": plan.baselines,
        "settings": asdict(plan.settings),
        "chosen_among": {
            "knn_k": list(KNN_K),
            "knn_temperature": list(KNN_TEMPERATURES),
            "probe_regulariser": list(REGULARISERS),
            "finetuning_rate": list(FINETUNING_RATES),
            "held_out": HELD_OUT,
        },
        "notes": plan.notes,
    }


def folder_name(description: dict[str, Any]) -> str:
    """Name an evaluation by its encoder, and by a digest of all that decides it."""
    identity = {name: description.get(name) for name in (*IDENTITY, *IDENTITY_SETTINGS)}
    text = json.dumps(identity, sort_keys=True)
    name = description["encoder"]["name"].rstrip("/").rpartition("/")[2]
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
    return f"{short}-{digest(text.encode())[:8]}"


def _describe_data(data: Dataset) -> dict[str, Any]:
    return {
        "digest": data.digest(),
        "train": len(data.train),
        "test": len(data.test),
        "channels": data.train.channels,
        "size": data.train.size,
        "classes": len(data.classes),
    }
