"""simlab.similarity beside torch_cka, pytorch-cka and simtorch: time, memory, correctness.

    python benchmarks/bench_similarity.py [--rounds 3] [--parts time,grow,correct]

writes benchmarks/results/similarity.md. Peers that are not installed are left out
(pip install torch_cka pytorch-cka==1.1.3 simtorch seaborn). Each tool runs in a process of its own:
forward passes alone and the tool take turns there, and its peak memory is compared with that of a
process that only runs the forward passes.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PEERS = {"pytorch-cka": "cka", "torch_cka": "torch_cka", "simtorch": "simtorch"}


# The tools, one interface: (model, model, names, names, batches) -> [L1, L2].


def run_simlab(a, b, one, two, loader, **options):
    from simlab.similarity import compare

    return compare({"a": a, "b": b}, loader, layers={"a": one, "b": two}, **options).matrix


def run_pytorch_cka(a, b, one, two, loader):
    from cka import compute_cka

    return compute_cka(a, b, loader, layers=one, model2_layers=two, device="cpu", progress=False)[
        0
    ].numpy()


def run_torch_cka(a, b, one, two, loader):
    from torch_cka import CKA

    with torch.no_grad():  # it keeps every graph otherwise
        tool = CKA(a, b, "a", "b", model1_layers=one, model2_layers=two)
        tool.compare(loader)
    return tool.export()["CKA"].numpy()


def run_simtorch(a, b, one, two, loader):
    from simtorch.model import SimilarityModel
    from simtorch.similarity import CKA

    with torch.no_grad():
        models = [SimilarityModel(m, layers_to_include=names) for m, names in ((a, one), (b, two))]
        return CKA(*models).compute(loader)


RUN = {
    "simlab": run_simlab,
    "pytorch-cka": run_pytorch_cka,
    "torch_cka": run_torch_cka,
    "simtorch": run_simtorch,
}


def installed():
    return ["simlab"] + [name for name, module in PEERS.items() if importlib.util.find_spec(module)]


class Loader:
    """Batches, with what the tools ask of a DataLoader (a list would be many loaders to one)."""

    dataset = "random images"

    def __init__(self, batches):
        self.batches = [(batch,) for batch in batches]

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


def loader(x, batch):
    return Loader(x.split(batch))


def conv_names(model, limit=None):
    return [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)][:limit]


def case(name):
    """Models, layer names and images of a timed case."""
    torch.manual_seed(0)
    if name.startswith("resnet18 x resnet34"):
        models = [
            torchvision.models.resnet18(num_classes=10),
            torchvision.models.resnet34(num_classes=10),
        ]
        limit, count, batch = None, 1024, 128
    else:  # "50 x 50 layers, N"
        models = [torchvision.models.resnet50(num_classes=10) for _ in range(2)]
        limit, count, batch = 50, int(name.split(", ")[1].split()[0].replace(",", "")), 256
    return [m.eval() for m in models], [conv_names(m, limit) for m in models], count, batch


def child(tool, name, rounds, mode):
    """In a process of its own: prints times and peak memory as JSON."""
    torch.set_num_threads(2)
    (a, b), (one, two), count, batch = case(name)
    # Images are made batch by batch where there are many, as a loader would bring them.
    x = torch.randn(min(count, 1024), 3, 32, 32)
    data = Loader(
        x[i % len(x) : i % len(x) + min(batch, count - i)] for i in range(0, count, batch)
    )

    def forward():
        with torch.no_grad():
            for (images,) in data:
                a(images)
                b(images)

    def work():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            RUN[tool](a, b, one, two, data)

    began = time.perf_counter()
    importlib.import_module(PEERS.get(tool, "simlab.similarity"))
    load = time.perf_counter() - began
    import simlab.similarity  # noqa: F401 - both modes import the same

    times = {"forward": [], "tool": []}
    warnings.simplefilter("ignore")
    with torch.no_grad():
        a(x[:8])
        b(x[:8])
    for _ in range(rounds):
        for label, step in (("forward", forward), ("tool", work)):
            if label == "tool" and mode == "forward":
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            times[label].append((time.perf_counter() - wall, time.process_time() - cpu))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"times": times, "load": load, "peak": peak}))


def measure(tool, name, rounds, mode="tool"):
    command = [sys.executable, __file__, "--child", tool, name, str(rounds), mode]
    env = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def timed_rows(name, tools, rounds):
    """One Markdown row a tool: seconds, ratio to the forward passes, peak over theirs."""
    (a, b), (one, two), _, batch = case(name)
    grams = (len(one) + len(two)) * batch**2 * 4 / 2**20
    out = []
    for tool in tools:
        print("measuring", name, tool, flush=True)
        run = measure(tool, name, rounds)
        # Forward passes alone need no more memory for more images: 1,024 tell.
        base = measure(tool, re.sub(", .* samples", ", 1,024 samples", name), 1, "forward")
        if "error" in run:
            out.append(f"| {name} | {tool} | fails: {run['error'][:90]} | | | | | |")
            continue
        forward = np.array(run["times"]["forward"])  # [rounds, wall and CPU seconds]
        with_tool = np.array(run["times"]["tool"])
        best = with_tool[:, 0].min() / forward[:, 0].min()
        cpu = with_tool[:, 1].min() / forward[:, 1].min()
        first = (run["load"] + with_tool[0, 0]) / forward[:, 0].min()
        extra = run["peak"] - base["peak"]
        out.append(
            f"| {name} | {tool} | {forward[:, 0].min():.2f} | {with_tool[:, 0].min():.2f} | "
            f"{best:.2f} | {first:.2f} | {cpu:.2f} | {extra:.0f} (Grams {grams:.1f}) |"
        )
    return out


# Correctness: the same data through all tools, against float64.


class Two(nn.Module):
    """Returns one half of its input; layers by name."""

    def __init__(self, half, mean=0.0, constant=False, last=False):
        super().__init__()
        self.half, self.mean, self.constant, self.last = half, mean, constant, last
        self.feature = nn.Identity()

    def forward(self, x):
        x = x.chunk(2, 1)[self.half] + self.mean
        if self.constant:
            x = torch.full_like(x, 0.1)
        if self.last:
            x = (
                x.view(*x.shape, 1, 1)
                .expand(-1, -1, 2, 2)
                .contiguous(memory_format=torch.channels_last)
            )
        return self.feature(x)


class InPlace(nn.Module):
    """As a residual block: what the watched layer gave is edited later."""

    def __init__(self, half):
        super().__init__()
        self.half, self.feature = half, nn.Identity()

    def forward(self, x):
        out = self.feature(x.chunk(2, 1)[self.half].clone())
        out += x.chunk(2, 1)[1 - self.half]
        return out.relu_()


class Tuple(nn.Module):
    def __init__(self, half):
        super().__init__()
        self.half, self.feature = half, nn.LSTM(1, 4, batch_first=True)

    def forward(self, x):
        return self.feature(x.chunk(2, 1)[self.half][:, :, None])[0]


def related(n, p, seed=0, noise=0.8):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, p, generator=draw)
    return torch.cat([x, x + noise * torch.randn(n, p, generator=draw)], 1)


def minibatch_truth(f, batches, debiased=True):
    """Sums of inner products of centred float64 Grams over batches (Nguyen 2021)."""
    from simlab.similarity.gram import centre

    sums = np.zeros(3)
    for batch in batches:
        k, m = (centre(v @ v.T, debiased) for v in (w - w.mean(0) for w in f(batch.double())))
        sums += [(k * m).sum().item(), (k * k).sum().item(), (m * m).sum().item()]
    return sums[0] / np.sqrt(sums[1] * sums[2])


def halves(x):
    return x.chunk(2, 1)


def correctness(tools):
    """Rows of (case, truth, one value a tool)."""
    base, free = related(512, 40), torch.randn(512, 600, generator=torch.Generator().manual_seed(1))
    tail = related(513, 40)
    cases = []
    for mean in (0, 10, 30, 1000):
        cases.append(
            (
                f"related features, mean {mean} standard deviations",
                [Two(0, mean), Two(1, mean)],
                base,
                128,
                lambda parts: minibatch_truth(halves, parts),
            )
        )
    for batch in (8, 32, 128, 512):
        cases.append(
            (
                f"independent noise, 300 features, batch {batch} (true: 0)",
                [Two(0), Two(1)],
                free,
                batch,
                lambda parts: minibatch_truth(halves, parts),
            )
        )
    odd = next(
        x
        for x in (
            torch.randn(32, 600, generator=torch.Generator().manual_seed(s)) for s in range(99)
        )
        if minibatch_truth(halves, [x]) < -0.02
    )
    cases += [
        (
            "independent noise that happens to be opposed, batch 32",
            [Two(0), Two(1)],
            odd,
            32,
            lambda parts: minibatch_truth(halves, parts),
        ),
        ("a layer with itself (true: 1)", [Two(0), Two(0)], base, 128, lambda parts: 1.0),
        (
            "last batch of one sample",
            [Two(0), Two(1)],
            tail,
            128,
            lambda parts: minibatch_truth(halves, [*parts[:-2], torch.cat(parts[-2:])]),
        ),
        (
            "one layer constant (undefined)",
            [Two(0), Two(1, constant=True)],
            base,
            128,
            lambda parts: float("nan"),
        ),
        (
            "channels_last outputs",
            [Two(0, last=True), Two(1, last=True)],
            base,
            128,
            lambda parts: minibatch_truth(halves, parts),
        ),
        (
            "layer edited in place later",
            [InPlace(0), InPlace(1)],
            base,
            128,
            lambda parts: minibatch_truth(halves, parts),
        ),
    ]
    torch.manual_seed(0)
    lstms = [Tuple(0), Tuple(1)]

    def lstm_truth(parts):
        exact = [nn.LSTM(1, 4, batch_first=True).double() for _ in lstms]
        for lstm, single in zip(exact, lstms, strict=True):
            lstm.load_state_dict({k: v.double() for k, v in single.feature.state_dict().items()})
        with torch.no_grad():
            return minibatch_truth(
                lambda x: [
                    lstm(v[:, :, None])[0].flatten(1)
                    for lstm, v in zip(exact, x.chunk(2, 1), strict=True)
                ],
                parts,
            )

    cases.append(("tuple outputs (LSTM)", lstms, base, 128, lstm_truth))
    rows = []
    for label, models, x, batch, truth in cases:
        parts = list(x.split(batch))
        exact = truth(parts)
        cells = []
        for tool in tools:
            try:
                with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = RUN[tool](
                        *(m.train(False) for m in models),
                        ["feature"],
                        ["feature"],
                        loader(x, batch),
                    )[0, 0]
                right = abs(value - exact) < 1e-4 or np.isnan(value) and np.isnan(exact)
                cells.append(f"{value:.4f}" if right else f"**{value:.4f}**")
            except Exception as error:  # a peer's crash is a finding
                text = str(error).splitlines()[0][:48] if str(error) else ""
                cells.append(f"**{type(error).__name__}: {text}**")
        rows.append(f"| {label} | {exact:.4f} | " + " | ".join(cells) + " |")
    return rows


NOTES = """\
Bold is wrong by more than 1e-4, or a crash. Why, where a peer is wrong (read in its source):

- **pytorch-cka** centres the Gram of raw float32 features: with a mean of some standard deviations
  the small centred part is the difference of large sums. It clips at 0, so that noise cannot
  average to 0; a denominator of 0 becomes 1e-6, so that an undefined value reads 0; it keeps the
  output tensors until the batch ends, so that later in-place edits reach them; it refuses batches
  of three and fewer.
- **torch_cka** has the same sums in float32, divides by NaN-prone roots and asserts afterwards that
  nothing is NaN: one undefined pair, or a batch of one, ends everything. It keeps the tensors, too.
- **simtorch** (the release on the package index) divides the sum over batches by the number of
  *layers*, so that even a layer with itself is not 1; it is biased whatever is asked, loses all to
  a batch of one, and cannot flatten channels_last outputs.
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="time,grow,correct")
    parser.add_argument("--child", nargs=4)
    args = parser.parse_args()
    if args.child:
        tool, name, rounds, mode = args.child
        return child(tool, name, int(rounds), mode)
    parts, tools = args.parts.split(","), installed()
    path = ROOT / "benchmarks" / "results" / "similarity.md"
    path.parent.mkdir(exist_ok=True)
    lines = [
        "# Comparing representations: time, memory, correctness",
        "",
        f"`python benchmarks/bench_similarity.py --rounds {args.rounds}` on {os.cpu_count()} "
        f"cores without a GPU, 2 threads in what is timed, torch {torch.__version__}, Python "
        f"{platform.python_version()}; load average of the machine before it began: "
        f"{os.getloadavg()[0]:.1f}.",
        "",
    ]
    head = [
        "| case | tool | forward passes alone, s | with the tool, s | ratio | first call | ratio "
        "of CPU time | peak memory over the forward passes', MB |",
        "|---" * 8 + "|",
    ]
    if "time" in parts:
        lines += [
            "## The layer matrix of resnet18 x resnet34",
            "",
            "All 20 x 36 convolutions, 1,024 images of 3 x 32 x 32, batch 128; best of "
            f'{args.rounds} rounds in which both take turns; "first call" is the import of '
            "the tool (torch is there) and its first round, over the forward passes.",
            "",
            *head,
            *timed_rows("resnet18 x resnet34", tools, args.rounds),
            "",
        ]
    if "grow" in parts:
        fast = [t for t in tools if t in ("simlab", "pytorch-cka")]
        lines += [
            "## How time and memory grow",
            "",
            "50 x 50 convolutions of two resnet50, 3 x 32 x 32, batch 256, one round.",
            "",
            *head,
        ]
        for count in ("1,024", "2,560", "10,000"):  # a peer at 2,560 shows how it grows, too
            lines += timed_rows(
                f"50 x 50 layers, {count} samples", fast if count != "10,000" else ["simlab"], 1
            )
        lines.append("")
    if "correct" in parts:
        lines += [
            "## Who is right",
            "",
            "CKA of two layers, debiased and summed over batches, against float64.",
            "",
            "| case | float64 | " + " | ".join(tools) + " |",
            "|---" * (len(tools) + 2) + "|",
            *correctness(tools),
            "",
            NOTES,
        ]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join(lines))
    os.replace(temporary, path)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
