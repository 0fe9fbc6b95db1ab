"""Every similarity measure beside its peers, on six datasets on which tools have disagreed.

    python benchmarks/bench_measures.py

writes benchmarks/results/measures.md. Peers that are installed are run (pip install repsim==0.1.5
rsatoolbox==0.3.2 torch_cka==0.21 pytorch-cka==1.1.3 simtorch==0.2.1; others are left out and said
to be). ReSi, netrep and platonic-rep are on no package index: their values come from
benchmarks/golden_measures.json, which

    python benchmarks/bench_measures.py --sources FOLDER

makes anew from checkouts of them, FOLDER/ReSi, FOLDER/netrep and FOLDER/platonic-rep.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from bench_similarity import Two, run_pytorch_cka, run_simtorch, run_torch_cka

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
GOLDEN = ROOT / "benchmarks" / "golden_measures.json"
REPOSITORIES = {
    "ReSi": "github.com/mklabunde/resi",
    "netrep": "github.com/ahwillia/netrep",
    "platonic-rep": "github.com/minyoungg/platonic-rep",
}
PACKAGES = {
    "repsim": "repsim",
    "rsatoolbox": "rsatoolbox",
    "torch_cka": "torch_cka",
    "pytorch-cka": "cka",
    "simtorch": "simtorch",
}
EQUAL = 1e-6  # peers in float64
EQUAL_FLOAT32 = 1e-4
IN_FLOAT32 = {"torch_cka", "pytorch-cka", "simtorch"}


# The six datasets, x and y of the same samples in float64.


def datasets():
    draw = np.random.default_rng(0)

    def shared(n, p, q, noise=1.0):
        x = draw.normal(size=(n, p))
        return x, x @ draw.normal(size=(p, q)) / p**0.5 + noise * draw.normal(size=(n, q))

    noise = draw.normal(size=(64, 32)), draw.normal(size=(64, 24))
    wide_pair = shared(32, 64, 50)
    relu = [np.maximum(v - 0.5, 0) for v in shared(64, 20, 12)]
    x, y = shared(64, 16, 12)
    spectrum = np.logspace(0, -2, 16)
    decaying = x * spectrum + 30, (x * spectrum) @ draw.normal(size=(16, 12)) + 0.1 * y + 30
    binary = (draw.random((80, 6)) < 0.5).astype(float)
    flipped = np.where(draw.random((80, 6)) < 0.2, 1 - binary, binary)
    return {
        "noise": noise,
        "shared": shared(64, 16, 12),
        "n < d": wide_pair,
        "ReLU": tuple(relu),
        "mean 30, decaying spectrum": decaying,
        "binary": (binary, flipped),
    }


# simlab's measures, one interface: (x, y) -> float.


def simlab_measures():
    from functools import partial

    from simlab import similarity as s

    return {
        "CKA, biased": partial(s.cka_similarity, debiased=False),
        "CKA, debiased": s.cka_similarity,
        "Procrustes, squared": s.procrustes_distance,
        "Procrustes, angle": partial(s.procrustes_distance, form="angle"),
        "Procrustes, complement": partial(s.procrustes_distance, form="complement"),
        "CCA, mean": s.cca_similarity,
        "CCA, mean square": partial(s.cca_similarity, squared=True),
        "SVCCA": s.svcca_similarity,
        "PWCCA, mean of both directions": lambda x, y: (
            (s.pwcca_similarity(x, y) + s.pwcca_similarity(y, x)) / 2
        ),
        "PWCCA": s.pwcca_similarity,
        "regression, in-sample": s.regression_similarity,
        "predictivity, R^2": s.predictivity,
        "predictivity, r": partial(s.predictivity, score="pearson"),
        "RSA, Euclidean, Spearman": s.rsa_similarity,
        "RSA, correlation, Spearman": partial(s.rsa_similarity, metric="correlation"),
        "RSA, correlation, Pearson": partial(
            s.rsa_similarity, metric="correlation", comparison="pearson"
        ),
        "RSA, squared Euclidean, Pearson": partial(
            s.rsa_similarity, comparison="pearson", squared=True
        ),
        "RSA, squared Euclidean, cosine": partial(
            s.rsa_similarity, comparison="cosine", squared=True
        ),
        "RSA, Euclidean, Kendall tau-a": partial(s.rsa_similarity, comparison="kendall"),
        "mutual kNN, cosine": partial(s.mutual_knn_similarity, metric="cosine"),
        "CKNNA": s.cknna_similarity,
        "disagreement": lambda x, y: s.disagreement(*_same_width(x, y)),
        "Jensen-Shannon": lambda x, y: s.jensen_shannon_divergence(*_same_width(x, y)),
    }


def _same_width(x, y):
    """The first columns, taken for logits."""
    width = min(x.shape[1], y.shape[1])
    return x[:, :width], y[:, :width]


# Peers, one interface: {measure: f(x, y) -> float}.


def repsim():
    import repsim

    return {
        "CKA, biased": lambda x, y: repsim.cka([x, y], "linear", "gretton")[0, 1],
        "CKA, debiased": lambda x, y: repsim.cka([x, y], "linear", "song")[0, 1],
        "CCA, mean": lambda x, y: repsim.cca([x, y], "pillai")[0, 1],
        "CCA, mean square": lambda x, y: repsim.cca([x, y], "yanai")[0, 1],
        "SVCCA": lambda x, y: repsim.svcca([x, y], "pillai")[0, 1],
        "PWCCA, mean of both directions": lambda x, y: repsim.pwcca([x, y])[0, 1],
    }


def rsatoolbox():
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare

    def rsa(distance, comparison):
        def value(x, y):
            rdms = [calc_rdm(Dataset(v), method=distance) for v in (x, y)]
            return compare(*rdms, method=comparison).item()

        return value

    return {
        "RSA, Euclidean, Spearman": rsa("euclidean", "spearman"),
        "RSA, correlation, Spearman": rsa("correlation", "spearman"),
        "RSA, squared Euclidean, Pearson": rsa("euclidean", "corr"),
        "RSA, squared Euclidean, cosine": rsa("euclidean", "cosine"),
        "RSA, Euclidean, Kendall tau-a": rsa("euclidean", "tau-a"),
        "RSA, correlation, Pearson": rsa("correlation", "corr"),
    }


def of_models(run):
    """A tool that compares models: each gives one half of the columns (zeros fill the narrower)."""

    def value(x, y):
        width = max(x.shape[1], y.shape[1])
        padded = [np.pad(v, ((0, 0), (0, width - v.shape[1]))) for v in (x, y)]
        data = torch.from_numpy(np.concatenate(padded, 1)).float()
        models = [Two(0).eval(), Two(1).eval()]
        from bench_similarity import loader

        return float(run(*models, ["feature"], ["feature"], loader(data, len(data)))[0, 0])

    return value


def peers_live():
    """{peer: {measure: function}} of those that are installed."""
    tools = {
        "repsim": repsim,
        "rsatoolbox": rsatoolbox,
        "torch_cka": lambda: {"CKA, debiased": of_models(run_torch_cka)},
        "pytorch-cka": lambda: {"CKA, debiased": of_models(run_pytorch_cka)},
        "simtorch": lambda: {"CKA, biased": of_models(run_simtorch)},
    }
    live = {}
    for name, tool in tools.items():
        if importlib.util.find_spec(PACKAGES[name]) is not None:
            live[name] = tool()
    return live


# Golden values from checkouts.


@contextlib.contextmanager
def _importable(folder, **stubs):
    """Import from a folder; stand-ins for modules that its files import and do not use here."""
    _forget("repsim")  # the package of that name on PyPI is another one
    sys.modules.update({name.replace("__", "."): stub for name, stub in stubs.items()})
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _forget("repsim", *(name.replace("__", ".") for name in stubs))


def _forget(*packages):
    for name in list(sys.modules):
        if name.split(".")[0] in packages or name in packages:
            del sys.modules[name]


def resi(folder):
    stub = types.ModuleType("repsim")
    stub.__path__ = [str(folder / "repsim")]
    measures = types.ModuleType("repsim.measures")  # its __init__ imports far more than is needed
    measures.__path__ = [str(folder / "repsim" / "measures")]
    with _importable(folder, repsim=stub, repsim__measures=measures):
        names = ["cka", "procrustes", "cca", "linear_regression", "rsa", "output_similarity"]
        m = {name: importlib.import_module(f"repsim.measures.{name}") for name in names}
    rsa = m["rsa"].representational_similarity_analysis
    functional = m["output_similarity"]
    return {
        "CKA, biased": lambda x, y: m["cka"].centered_kernel_alignment(x, y, "nd"),
        "Procrustes, squared": lambda x, y: (
            m["procrustes"].orthogonal_procrustes_centered_and_normalized(x, y, "nd") ** 2
        ),
        "SVCCA": lambda x, y: m["cca"].svcca(x, y, "nd"),
        "PWCCA": lambda x, y: m["cca"].pwcca(x, y, "nd"),
        "regression, in-sample": lambda x, y: m["linear_regression"].linear_reg(x, y, "nd"),
        "RSA, Euclidean, Spearman": lambda x, y: rsa(x, y, "nd", inner="euclidean"),
        "RSA, correlation, Spearman": lambda x, y: rsa(x, y, "nd"),
        "disagreement": lambda x, y: functional.Disagreement()(*_same_width(x, y)),
        "Jensen-Shannon": lambda x, y: functional.JSD()(*_same_width(x, y)),
    }


def netrep(folder):
    with _importable(folder):
        linear = importlib.import_module("netrep.metrics.linear")

    def angle(x, y):
        metric = linear.LinearMetric(alpha=1.0, score_method="angular")
        return metric.fit(x, y).score(x, y)

    return {"Procrustes, angle": angle}


def platonic(folder):
    audio = types.ModuleType("torchaudio")
    audio.functional = types.ModuleType("torchaudio.functional")
    stubs = {"torchaudio": audio, "torchaudio__functional": audio.functional}
    with _importable(folder, **stubs), contextlib.redirect_stdout(io.StringIO()):
        metrics = importlib.import_module("metrics").AlignmentMetrics

    def rows(x, y):
        """Rows of length 1, as measure_alignment.py makes them."""
        return [torch.nn.functional.normalize(torch.from_numpy(v), dim=-1) for v in (x, y)]

    def raw(x, y):
        return [torch.from_numpy(v) for v in (x, y)]

    return {
        "CKA, biased": lambda x, y: metrics.cka(*raw(x, y)),
        "CKA, debiased": lambda x, y: metrics.unbiased_cka(*raw(x, y)),
        "mutual kNN, cosine": lambda x, y: metrics.mutual_knn(*rows(x, y), topk=10),
        "CKNNA": lambda x, y: metrics.cknna(*rows(x, y), topk=10),
    }


def make_golden(sources):
    golden = {}
    for name, tool in (("ReSi", resi), ("netrep", netrep), ("platonic-rep", platonic)):
        folder = sources / name
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        values = {}
        for measure, function in tool(folder).items():
            values[measure] = {d: evaluate(function, x, y) for d, (x, y) in datasets().items()}
        golden[name] = {"source": REPOSITORIES[name], "commit": commit, "values": values}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")


# The table.


def evaluate(function, x, y):
    """A value, or the name of the error."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                return float(function(x.copy(), y.copy()))
        except Exception as error:  # a peer's crash is a finding
            return (
                f"{type(error).__name__}: {str(error).splitlines()[0][:40] if str(error) else ''}"
            )


def cell(value, truth, tolerance):
    if isinstance(value, str):
        return f"**{value}**"
    near = abs(value - truth) <= tolerance
    return "equal" if near else f"**{value:.4f}**"


LEGEND = (
    "Bold differs from simlab by more than 1e-6 (1e-4 for torch_cka, pytorch-cka and simtorch, "
    "which compute in float32), or is an error. The stored values are float64, as are simlab's."
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=Path)
    args = parser.parse_args()
    if args.sources:
        make_golden(args.sources)
    data = datasets()
    live = peers_live()
    golden = json.loads(GOLDEN.read_text())
    path = ROOT / "benchmarks" / "results" / "measures.md"
    notes = path.read_text().partition("## Who is right\n")[2] if path.exists() else ""
    lines = ["# Measures beside their peers", "", "`python benchmarks/bench_measures.py`.", ""]
    for name in PACKAGES:
        if name in live:
            lines.append(f"- {name} {importlib.metadata.version(name)}, run live")
        else:
            lines.append(f"- {name}: not installed, left out")
    for name, entry in golden.items():
        lines.append(f"- {name}: stored values of {entry['source']} at {entry['commit'][:7]}")
    lines += ["", LEGEND, ""]
    lines += ["| measure | tool | " + " | ".join(data) + " |", "|---" * (2 + len(data)) + "|"]
    for measure, function in simlab_measures().items():
        truths = [evaluate(function, x, y) for x, y in data.values()]
        lines.append(f"| {measure} | simlab | " + " | ".join(f"{t:.4f}" for t in truths) + " |")
        for peer, functions in live.items():
            if measure not in functions:
                continue
            tolerance = EQUAL_FLOAT32 if peer in IN_FLOAT32 else EQUAL
            values = [evaluate(functions[measure], x, y) for x, y in data.values()]
            cells = [cell(v, t, tolerance) for v, t in zip(values, truths, strict=True)]
            lines.append(f"| | {peer} | " + " | ".join(cells) + " |")
        for peer, entry in golden.items():
            if measure in entry["values"]:
                values = entry["values"][measure].values()
                cells = [cell(v, t, EQUAL) for v, t in zip(values, truths, strict=True)]
                lines.append(f"| | {peer} | " + " | ".join(cells) + " |")
    lines += ["", "## Who is right"]
    path.write_text("\n".join(lines) + "\n" + notes)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
