"""Why a layer has no values, in words that are true."""

import numpy as np

from .plan import Plan
from .result import Result
from .sums import KernelSums

EQUALLY_FAR = "its samples are all equally far apart"


def explain(result: Result, plan: Plan, sums: KernelSums) -> None:
    """Add the reason to every layer whose values are all NaN."""
    for layer in result.layers:
        for name, values in result.values.items():
            if layer.label in result.reasons or not np.isnan(values[layer.row]).all():
                continue
            energy = float(sums.energy[layer.row])
            if energy > 0:
                reason = _reason_of_measure(name, layer.row, result, plan, sums)
                result.reasons[f"{layer.label} ({name})"] = reason
            else:  # whatever the measure
                result.reasons[layer.label] = _reason_of_layer(energy)


def _reason_of_layer(energy: float) -> str:
    if energy == 0:
        return "constant: its features do not differ between the samples"
    return "NaN or infinite features"


def _reason_of_measure(name: str, row: int, result: Result, plan: Plan, sums: KernelSums) -> str:
    """The reason why one measure of a layer that is not constant is NaN with all others."""
    measure = plan.measures[name]
    if measure.pair is not None:
        return "the measure is NaN with every other layer"
    if name == "rbf_cka" and sums.sigma is not None and not sums.sigma[row] > 0:
        return "half of its samples or more coincide: its kernel has no width"
    if name == "deconfounded_cka":
        norms = np.diagonal(result.group_sums[name].sum(0))  # [T+1], the confounder's last
        if not plan.residual_by_batch and not norms[-1] > 0:
            return "the confounder's samples are all equally far apart"
        if plan.residual_by_batch or norms[row] > 0:
            return "nothing is left of it beside the confounder"
    if measure.metric != "euclidean":
        return f"{EQUALLY_FAR} by their {measure.metric} distance"
    return EQUALLY_FAR
