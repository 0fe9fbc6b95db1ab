"""The measurements of a plan: encoder after encoder, protocol after protocol, a row for each."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from simlab.data import Dataset

from .finetuning import FineTuning
from .frozen import Row, measure_knn, measure_probe
from .inputs import Prepared
from .layers import OUTPUT, clean_features, layer_names, pixel_features
from .plan import Plan
from .protocols import Protocol
from .result import wilson
from .views_probe import measure_sgd_probe

# of the table, before what differs between the protocols
COLUMNS = ["data", "protocol", "layer", "encoder", "trained_on", "seed", "accuracy", "low", "high"]
Weights = Iterable[tuple[Any, list[int]]]  # encoders, each with the seeds that it is measured with


def measure(plan: Plan, home: Path, progress: bool = True) -> pd.DataFrame:
    """Measure all of a plan.

    Args:
        plan: Checked.
        home: Fine-tuned runs go to its folder runs.
        progress: Show bars.

    Returns:
        A row for each measurement; see `Evaluation`.
    """
    rows: list[Row] = []
    for data in plan.datasets:
        if plan.is_trained:
            details = plan.source.details
            trained_on = str(details.get("trained_on") or details.get("weights") or "")
            trained: Weights = [(plan.source.trained, plan.seeds)]
            measuring = Measuring(plan, data, plan.source.name, trained_on, home, progress)
            rows += measuring.rows(trained)
        if plan.has_untrained:
            assert plan.source.fresh is not None
            build = plan.source.fresh
            fresh: Weights = ((build(seed), [seed]) for seed in plan.seeds)
            measuring = Measuring(plan, data, plan.untrained_name, "", home, progress)
            rows += measuring.rows(fresh)
        if plan.baselines:
            rows += pixel_rows(plan, data)
    for row in rows:
        row["low"], row["high"] = wilson(row["accuracy"], row["tested"])
    table = pd.DataFrame(rows)
    others = [name for name in table if name not in COLUMNS]
    return table[[*COLUMNS, *others]]


class Measuring:
    """Measures encoders of one name on one dataset.

    Args:
        plan: Protocols, layers, settings.
        data: The images.
        name: What the table calls the encoders.
        trained_on: What they were trained on, as far as known.
        home: Where fine-tuned runs go, below.
        progress: Show bars.
    """

    def __init__(
        self, plan: Plan, data: Dataset, name: str, trained_on: str, home: Path, progress: bool
    ) -> None:
        self.plan = plan
        self.data = data
        self.shared = {"data": data.name, "encoder": name, "trained_on": trained_on}
        self.home = home
        self.progress = progress
        self.chosen: dict[str, Row] = {}  # the rate of fine-tuning, by protocol

    def rows(self, weights: Weights) -> list[Row]:
        """Measure each encoder by each protocol, with each seed where the seed matters."""
        rows: list[Row] = []
        for encoder, seeds in weights:
            module = self.plan.source.prepared(encoder, self.data, self.plan.device)
            layers = layer_names(encoder, self.plan.layers)
            encoded = clean_features(module, self.data, layers, self.plan.settings.batch_size)
            jobs = _jobs(self.plan.protocols, list(encoded), seeds)
            title = f"{self.shared['encoder']} on {self.data.name}"
            for protocol, layer, seed in tqdm(jobs, title, leave=False, disable=not self.progress):
                key = {"protocol": protocol.name, "layer": layer, "seed": seed}
                if protocol.kind == "knn":
                    row = measure_knn(encoded[layer], seed)
                elif protocol.kind == "probe":
                    row = measure_probe(encoded[layer], protocol.labels, seed)
                elif protocol.kind == "sgd-probe":
                    row = measure_sgd_probe(
                        module,
                        self.data,
                        encoded[OUTPUT],
                        seed,
                        self.plan.settings,
                        self.progress,
                    )
                else:
                    row = self._finetuned(module, protocol, seed)
                rows.append(self.shared | key | row)
        return rows

    def _finetuned(self, module: Prepared, protocol: Protocol, seed: int) -> Row:
        """Fine-tune with a seed; the first one chooses the rate for all."""
        tuning = FineTuning(
            self.data, protocol, self.plan.settings, self.home / "runs", self.progress
        )
        if protocol.name not in self.chosen:
            self.chosen[protocol.name] = tuning.choose_rate(module, seed) | {"seed": seed}
        chosen = self.chosen[protocol.name]
        row = tuning.measure(module, seed, chosen["rate"])
        return row | {"validation": chosen["validation"], "rate_chosen_by_seed": chosen["seed"]}


def pixel_rows(plan: Plan, data: Dataset) -> list[Row]:
    """Measure raw pixels by kNN and linear probe, at the dataset's own size."""
    protocols = [protocol for protocol in plan.protocols if protocol.per_layer]
    if not protocols:
        return []
    name, feats = pixel_features(data, plan.settings.batch_size)
    rows: list[Row] = []
    for protocol, layer, seed in _jobs(protocols, [OUTPUT], plan.seeds):
        key = {"data": data.name, "protocol": protocol.name, "layer": layer, "encoder": name}
        if protocol.kind == "knn":
            row = measure_knn(feats, seed)
        else:
            row = measure_probe(feats, protocol.labels, seed)
        rows.append(key | {"trained_on": "", "seed": seed} | row)
    return rows


def _jobs(
    protocols: list[Protocol], layers: list[str], seeds: list[int]
) -> list[tuple[Protocol, str, int]]:
    """What is measured of one encoder: layers by kNN and probe, more seeds where they matter."""
    jobs = []
    for protocol in protocols:
        for layer in layers:
            for seed in seeds if protocol.draws else seeds[:1]:
                if layer == OUTPUT or protocol.per_layer:
                    jobs.append((protocol, layer, seed))
    return jobs
