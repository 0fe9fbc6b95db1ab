"""The exercises: solutions pass, blanks do not, and a typical mistake gets the message meant for it."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[2] / "notebooks" / "exercises"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def exercises(path):
    """(name, answer's code, check's code, solution's code) of each exercise of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    for i, cell in enumerate(cells):
        if "answer" in cell.metadata.get("tags", []):
            check, folded = cells[i + 1].source, cells[i + 2].source
            solution = re.search(r"```python\n(.*?)```", folded, re.DOTALL)[1]
            yield re.match(r"check\.(\w+)", check)[1], cell.source, check, solution


ALL = {f"{path.stem}: {e[0]}": (path, *e[1:]) for path in NOTEBOOKS for e in exercises(path)}
BY_NAME = {key.split(": ")[1]: key for key in ALL}
every_exercise = pytest.mark.parametrize("key", ALL)


@pytest.fixture(autouse=True)
def checks_are_found(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def verdict(key, code, capsys):
    """What the check prints about an answer."""
    path, _, check, _ = ALL[key]
    imports = nbformat.read(path, as_version=4).cells[2].source
    names = {"sys": sys, "Path": Path, "homes": []}
    exec(imports, names)
    exec(code, names)
    capsys.readouterr()
    exec(check, names)
    return capsys.readouterr().out


@every_exercise
def test_the_folded_solution_is_right(key, capsys):
    said = verdict(key, ALL[key][3], capsys)
    assert re.search("^Right. ", said, re.MULTILINE) and "Not yet" not in said


@every_exercise
def test_a_blank_is_still_blank(key, capsys):
    assert verdict(key, ALL[key][1], capsys).startswith("Not yet: still blank.")


def test_in_a_graded_notebook_what_is_not_right_is_an_error(monkeypatch, capsys):
    from checks import judge

    monkeypatch.setattr(judge, "graded", True)
    key = BY_NAME["rank"]
    with pytest.raises(AssertionError, match="Not yet: still blank"):
        verdict(key, ALL[key][1], capsys)
    assert verdict(key, ALL[key][3], capsys).startswith("Right.")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_each_exercise_has_all_its_parts(path):
    cells = nbformat.read(path, as_version=4).cells
    assert 2 <= len(list(exercises(path))) <= 4
    for i, cell in enumerate(cells):
        if "answer" in cell.metadata.get("tags", []):
            task = next(c.source for c in reversed(cells[:i]) if c.cell_type == "markdown")
            assert re.search(r"\*(easy|medium|hard) · \d+ minutes\*", task)
            assert "**Objective:**" in task and task.count("<details>") >= 2
            assert task.count("<details>") == task.count("</details>")
            # hints are nested: all open before the first one closes
            assert task.rindex("<details>") < task.index("</details>")
            assert "check" in cells[i + 1].metadata["tags"]
            assert cells[i + 2].source.startswith("<details><summary>Solution</summary>")


def test_every_lesson_has_its_exercises():
    lessons = {p.stem for p in FOLDER.parent.glob("0[1-9]*.ipynb")} - {"03b_collapse_sweeps"}
    assert lessons == {p.stem for p in NOTEBOOKS}  # 03b is an appendix


JUNK = ["None", "3", "'a word'", "[]", "{}", "object()", "torch.zeros(0)", "torch.tensor(float('nan'))",
        "torch.zeros(2, 3)", "(1, 2)", "(None, None)", "(torch.zeros(3), 'b')"]  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
@every_exercise
def test_a_check_answers_whatever_it_is_given(key, junk, capsys):
    """In words, and never with an error of its own."""
    name = re.match(r"check\.\w+\((\w+)\)", ALL[key][2])[1]
    called = "def " in ALL[key][3]
    said = verdict(
        key, f"import torch\n{name} = {'lambda *inputs: ' if called else ''}{junk}", capsys
    )
    assert "Not yet: " in said and "Right." not in said


def u_centred(body, pair="(A * B).sum() / ((A * A).sum() * (B * B).sum()).sqrt()"):
    return f"""def u(z):
    z = z - z.mean(0)
    n, K = len(z), z @ z.T
    {body}
def debiased_cka(x, y):
    A, B = u(x), u(y)
    return {pair}
"""


def replaced(name, *pairs):
    """The solution with some of it changed."""
    code = ALL[BY_NAME[name]][3]
    for old, new in pairs:
        assert old in code
        code = code.replace(old, new)
    return code


def wrong(name, code, why):
    return pytest.param(name, code, why, id=f"{name}: {why}")


STEP = "cosine12 = F.cosine_similarity(p1, t2, dim=-1).mean()"
STEP2 = "cosine21 = F.cosine_similarity(p2, t1, dim=-1).mean()"
FOLLOW = ALL[BY_NAME["step"]][3].split("optimizer.step()\n")[1].split("    return")[0]


def step(*pairs):
    return replaced("step", *pairs)


def contrast(*pairs):
    return replaced("contrast_classes", *pairs)


def unshared(*pairs):
    return replaced("unshared", *pairs)


def blind(*pairs):
    return replaced("blind_spots", *pairs)


def batch(*pairs):
    return replaced("batches", *pairs)


def retrieval(*pairs):
    return replaced("recall", *pairs)


def attract(*pairs):
    return replaced("contrast_things", *pairs)


def confused(*pairs):
    return replaced("confusions", *pairs)


# the thing's drawings in their order, and not shuffled
SHUFFLED = "        drawings = drawings[torch.randperm(len(drawings), generator=generator)]\n"
# draws drawings, and leaves out the things that it has had
BY_DRAWINGS = """def draw_batch(things, designers, size, generator):
    first, second, seen = [], [], set()
    for i in torch.randperm(len(things), generator=generator).tolist():
        others = ((things == things[i]) & (designers != designers[i])).nonzero()[:, 0]
        if len(others) and len(first) < size{and_new}:
            first.append(i)
            second.append(int(others[torch.randint(len(others), (1,), generator=generator)]))
            seen.add(int(things[i]))
    return torch.tensor(first), torch.tensor(second)
"""

WRONG = [
    wrong("step", step(("loss = -(", "loss = (")), "the wrong sign"),
    wrong("step", step((" / 2\n", "\n")), "it is twice as large"),
    wrong("step", step((".mean()", ".sum()")), "sum over the batch"),
    wrong("step", step(("dim=-1", "dim=0")), "taken over the batch (dim=0)"),
    wrong("step", step((STEP, "cosine12 = F.cosine_similarity(p1.flatten(), t2.flatten(), dim=0)"),
          (STEP2, "cosine21 = F.cosine_similarity(p2.flatten(), t1.flatten(), dim=0)")),
          "one cosine of the whole flattened batch"),
    wrong("step", step((STEP, "cosine12 = (F.normalize(p1, dim=0) * F.normalize(t2, dim=0)).sum(1).mean()"),
          (STEP2, "cosine21 = (F.normalize(p2, dim=0) * F.normalize(t1, dim=0)).sum(1).mean()")),
          "batch and feature axes are swapped"),
    wrong("step", step(("(p1, t2", "(p1, t1"), ("(p2, t1, dim", "(p2, t2, dim")), "never meet"),
    wrong("step", step(("t1, t2 = teacher(x1), teacher(x2)", "t1, t2 = student(x1), student(x2)")),
          "that is SimSiam"),
    wrong("step", step(("predictor(student(x1)), predictor(student(x2))", "student(x1), student(x2)")),
          "the predictor is not used"),
    wrong("step", step(("-(cosine12 + cosine21) / 2", "-cosine12")), "Add that of p2"),
    wrong("step", step(("-(cosine12 + cosine21) / 2", "-cosine21")), "Add that of p1"),
    wrong("step", step(("    optimizer.step()\n", "")), "the student has not moved"),
    wrong("step", step(("    optimizer.zero_grad()\n", "")), "zero_grad() is missing"),
    wrong("step", step((FOLLOW, "")), "the teacher has not moved"),
    wrong("step", step(("mul_(momentum).add_(weight, alpha=1 - momentum)",
          "mul_(1 - momentum).add_(weight, alpha=momentum)")), "the wrong way round"),
    wrong("step", step((FOLLOW, ""), ("    optimizer.zero_grad()\n", FOLLOW + "    optimizer.zero_grad()\n")),
          "of before the step"),
    wrong("step", step(("    with torch.no_grad():\n        t1, t2 = ", "    t1, t2 = ")),
          "a gradient reaches the teacher"),
    wrong("step", step(("zip(teacher.parameters(), student.parameters())",
          "[(teacher.weight, student.weight)]")), "and its bias not"),
    wrong("step", step(("return loss.item()", "return loss.item() + 1")), "expected"),
    wrong("direct", replaced("direct", ("u.T @ u", "u @ u.T"), ("z.shape[1]", "len(z)")),
          "[50, 50] of all pairs of images"),
    wrong("direct", replaced("direct", ("F.normalize(z.detach(), dim=1)", "z.detach()")),
          "not divided by their lengths"),
    wrong("direct", replaced("direct", ("z.detach(), dim=1", "z.detach(), dim=0")), "(dim=0)"),
    wrong("direct", replaced("direct", ("torch.linalg.matrix_norm(C, 2)", "C.norm()")), "Frobenius"),
    wrong("direct", replaced("direct", ("C / torch.linalg.matrix_norm(C, 2)", "C")),
          "not divided by its largest eigenvalue"),
    wrong("direct", replaced("direct", ("* torch.eye(z.shape[1])", "")), "added to every entry"),
    wrong("direct", replaced("direct", ("    C = ", "    u = u - u.mean(0)\n    C = ")), "covariance"),
    wrong("direct", replaced("direct", ("z.detach()", "z")), "a gradient flows"),
    wrong("broken", replaced("broken", ("D(p, z):\n", "D(p, z):\n        z = z.detach()\n")),
          "it does not collapse"),
    wrong("broken", replaced("broken", ("-F.cosine_similarity(p, z, dim=-1)",
          "-F.cosine_similarity(p, p.mean(0, keepdim=True), dim=-1)")), "no longer have the loss -1"),
    wrong("broken", replaced("broken", ("-F.cosine_similarity(p, z, dim=-1)",
          "-F.cosine_similarity(p, p, dim=-1)")), "no longer asks the views to agree"),
    wrong("broken", replaced("broken", ('"C"', '""')), "still blank. Write the letter"),
    wrong("broken", replaced("broken", ('"C"', '"A"')), "pushes no image away"),
    wrong("broken", replaced("broken", ('"C"', '"B"')), "the same lowest value"),
    wrong("broken", replaced("broken", ("answer = (broken_loss, reason)", "answer = broken_loss")),
          "a pair was expected"),
    wrong("augmentation", "def augment(images, generator):\n    return images.clone()",
          "the image itself"),
    wrong("augmentation", "def augment(images, generator):\n    return images.mul_(0.9)",
          "themselves were changed"),
    wrong("augmentation", replaced("augmentation", ("n, 1, 1, 1, generator=generator", "n, 1, 1, 1")),
          "another view"),
    wrong("augmentation", replaced("augmentation", ("torch.rand(3, n, 1, 1, 1,", "torch.rand(3, 1, 1, 1, 1,"),
          ("torch.randn(images.shape,", "torch.randn((1, 1, 8, 8),")), "the same draw"),
    wrong("augmentation", replaced("augmentation", (" + light", "")), "In what do two images"),
    wrong("augmentation", replaced("augmentation", ("return images + light + noise",
          "flip = torch.rand(n, generator=generator)[:, None, None, None] < 0.5\n"
          "    return torch.where(flip, images.flip(3), images) + light + noise")), "mirror image"),
    wrong("draw", "def draw_labels(labels, number, seed):\n    return torch.randperm(len(labels),"
          " generator=torch.Generator().manual_seed(seed))[:number]", "As many of each"),
    wrong("draw", replaced("draw", ("torch.randperm(len(indices), generator=generator)",
          "torch.randint(len(indices), (len(indices),), generator=generator)")), "drawn twice"),
    wrong("draw", replaced("draw", (".manual_seed(seed)", ".manual_seed(0)")),
          "another seed draws the same"),
    wrong("draw", replaced("draw", (", generator=generator", "")), "make a generator from"),
    wrong("draw", replaced("draw", ("return torch.cat(chosen)", "return labels[torch.cat(chosen)]")),
          "drawn twice"),
    wrong("report", replaced("report", ("test[validation.argmax()]", "test.max()")), "by luck"),
    wrong("report", replaced("report", ("test[validation.argmax()]", "validation.max()")),
          "the validation accuracy"),
    wrong("report", replaced("report", ("[validation.argmax()]", "")), "one number was expected"),
    wrong("compare", replaced("compare", ('("B", "E")', '("A", "D")')), "also differ in epochs"),
    wrong("compare", replaced("compare", ('("A", "C")', '("A", "B")')), "have the same labels"),
    wrong("compare", replaced("compare", ('("A", "B")', '"no pair"')), "Look again"),
    wrong("compare", replaced("compare", ('"no pair"', '("D", "E")')), "confounded"),
    wrong("compare", replaced("compare", ('("A", "B")', '("A", "Z")')), "no pair of runs"),
    wrong("ablations", replaced("ablations", ("True", "False")), "drift to one point together"),
    wrong("ablations", replaced("ablations", ('with the predictor": False',
          'with the predictor": True')), "That is BYOL"),
    wrong("ablations", replaced("ablations", ('slowly": False', 'slowly": True')), "a fixed random one"),
    wrong("ablations", replaced("ablations", ('128": False', '128": True')), "no negatives"),
    wrong("rank", replaced("rank", ("svdvals(z)", "svdvals(z - z.mean(0))")), "the mean was subtracted"),
    wrong("rank", replaced("rank", ("torch.exp(", "(")), "Take its exponential"),
    wrong("rank", replaced("rank", ("svdvals(z)", "svdvals(z).square()")), "*squared*"),
    wrong("rank", replaced("rank", ("s / s.sum()", "s")), "Divide the singular values"),
    wrong("rank", "def effective_rank(z):\n    return torch.linalg.matrix_rank(z)", "see strength"),
    wrong("rank", replaced("rank", ("torch.linalg.svdvals(z)", "z.norm(dim=0)")), "one direction"),
    wrong("sample", ALL[BY_NAME["sample_each"]][3].replace("sample_each", "sample_tokens"), "own"),
    wrong("sample", replaced("sample", ("torch.randperm(x.shape[1])", "torch.arange(x.shape[1])")),
          "every call draws the same"),
    wrong("sample", replaced("sample", ("y[:, indices]", "y[:, torch.randperm(y.shape[1])[:n]]")),
          "*same* place"),
    wrong("sample", replaced("sample", ("torch.randperm(x.shape[1])[:n]",
          "torch.randint(x.shape[1], (n,))")), "drawn twice"),
    wrong("sample", replaced("sample", ("x.shape[1]", "len(x)")), "the shape"),
    wrong("sample", replaced("sample", ("x.shape[1])", "x.shape[1] // 2)")), "the same chance"),
    wrong("sample_each", ALL[BY_NAME["sample"]][3].replace("sample_tokens", "sample_each"), "v0"),
    wrong("sample_each", replaced("sample_each", ("[:, :n, None]", "[:, :, None] // 2")),
          "the shape"),
    wrong("sample_each", "def sample_each(x, y, n):\n    i = torch.randint(x.shape[1], "
          "(len(x), n, 1))\n    return torch.take_along_dim(x, i, 1), torch.take_along_dim(y, i, 1)",
          "drawn twice"),
    wrong("distance", replaced("distance", (".detach()", "")), "detach it, as in SimSiam"),
    wrong("distance", replaced("distance", ("zx.detach()", "zx"), ("(zy)", "(zy.detach())")),
          "no gradient reaches zy"),
    wrong("distance", replaced("distance", ("z.mean(1,", "z.mean(2,"), ("z.std(1,", "z.std(2,")),
          "over the *tokens*"),
    wrong("distance", replaced("distance", (".norm(dim=-1)", ".pow(2).sum(-1)")), "the norm itself"),
    wrong("distance", replaced("distance", (".norm(dim=-1)", ".pow(2)")), "plain mean squared"),
    wrong("centre", replaced("centre", (" - K.mean(1, keepdim=True) + K.mean()", "")), "one way"),
    wrong("centre", replaced("centre", (" + K.mean()", "")), "add it back once"),
    wrong("centre", "def centre(K):\n    return K - K.mean()", "only the grand mean"),
    wrong("centre", "def centre(K):\n    K -= K.mean(0)\n    return K", "Work on a copy"),
    wrong("debiased", u_centred("return K"), "the biased CKA"),
    wrong("debiased", u_centred("K.fill_diagonal_(0); m = K.sum(1) / n; m = m - m.sum() / (2 * n);"
          " return K - m[:, None] - m[None]"), "Look at the denominators"),
    wrong("debiased", replaced("debiased", (".sum()).sqrt()", ".sum())")), "root of the two"),
    wrong("unchanged", replaced("unchanged", ('20": False', '20": True')), "the most variance"),
    wrong("unchanged", replaced("unchanged", ('images in another order": False',
          'images in another order": True')), "Two shuffled loaders"),
    wrong("unchanged", replaced("unchanged", ('"rotated": True', '"rotated": False')), "inner"),
    wrong("rate", replaced("rate", (" * batch_size / 256", "")), "four times as high"),
    wrong("rate", replaced("rate", ("step < warmup", "False"),
          ("(step - warmup) / (steps - warmup)", "step / steps")), "at full height"),
    wrong("rate", replaced("rate", ("(step - warmup) / (steps - warmup)", "step / steps")),
          "where the warm-up ends"),
    wrong("rate", replaced("rate", ("math.pi * done", "2 * math.pi * done")), "only fall"),
    wrong("rate", replaced("rate", ("(1 + math.cos(math.pi * done)) / 2", "(1 - done) ** 2")),
          "a cosine is at lr / 2"),
    wrong("share", "def share(order, rank, world):\n    return order", "four times"),
    wrong("share", "def share(order, rank, world):\n    n = len(order) // world\n"
          "    return order[rank * n : (rank + 1) * n]", "go to nobody"),
    wrong("share", "def share(order, rank, world):\n    n = len(order) // world\n"
          "    return order[rank * n : (rank + 1) * n if rank < world - 1 else None]", "the largest"),
    wrong("share", "def share(order, rank, world):\n    return torch.arange(len(order))[rank::world]",
          "does not follow"),
    wrong("share", "def share(order, rank, world):\n    g = torch.Generator().manual_seed(rank)\n"
          "    return order[torch.randperm(len(order), generator=g)[: len(order) // world]]",
          "goes to two"),
    wrong("difference", replaced("difference", (" / len(d) ** 0.5", "")), "divide by it"),
    wrong("difference", replaced("difference", ("2.776", "1.96")), "Student's t"),
    wrong("difference", replaced("difference", ("ddof=1", "ddof=0")), "Use ddof=1"),
    wrong("difference", replaced("difference", ("2.776 * d.std(ddof=1) / len(d) ** 0.5",
          "2.3 * ((a.var(ddof=1) + b.var(ddof=1)) / len(a)) ** 0.5")), "share their seeds"),
    wrong("follow", replaced("follow", ("teacher.items()", "zip(teacher, teacher.values())"),
          ("student[name]", "list(student.values())[len(moved)]")), "Pair them by name"),
    wrong("follow", replaced("follow", ("m * weight + (1 - m)", "(1 - m) * weight + m")),
          "near 1, it moves slowly"),
    wrong("follow", replaced("follow", (".detach()", "")), "would flow into the teacher"),
    wrong("follow", replaced("follow", ("return moved", "return moved | student")), "no others"),
    wrong("vote", replaced("vote", (".fill_diagonal_(-torch.inf)", "")), "votes about itself"),
    wrong("vote", replaced("vote", ("topk(k, dim=1)", "topk(k, dim=1, largest=False)"),
          ("(-torch.inf)", "(torch.inf)")), "least similar"),
    wrong("vote", replaced("vote", ("F.normalize(features, dim=1)", "features")), "inner products"),
    wrong("vote", replaced("vote", ("dim=1)\n    cosines", "dim=0)\n    cosines")), "(dim=0)"),
    wrong("vote", replaced("vote", (" / labels.bincount()[labels[indices]]", "")), "by its numbers"),
    wrong("vote", replaced("vote", ("torch.exp(similar / temperature)", "torch.ones_like(similar)")),
          "count nearly the same"),
    wrong("vote", replaced("vote", ("similar / temperature", "similar * temperature")),
          "and not multiplied"),
    wrong("vote", replaced("vote", ("similar / temperature", "similar / 0.1")), "is not used"),
    wrong("vote", replaced("vote", ("(weights[:, :, None] * votes).sum(1).argmax(1)", "indices[:, 0]")),
          "not their classes"),
    wrong("vote", replaced("vote", ("topk(k,", "topk(1,")), "get another class"),
    wrong("contrast_classes", contrast((" == torch.cat([labels, labels])[None, :]",
          " == -1 - torch.cat([labels, labels])[None, :]"), ("    masked[", "    masked.fill_diagonal_(True)\n    masked[")),
          "that is SimCLR's loss"),
    wrong("contrast_classes", contrast(("    masked[", "    masked.fill_diagonal_(False)\n    masked[")),
          "mask the diagonal too"),
    wrong("contrast_classes", contrast((" == torch", " != torch")), "the *other* classes are masked"),
    wrong("contrast_classes", contrast(("    masked[torch.arange(2 * n), other_view] = False", "")),
          "it is infinite"),
    wrong("contrast_classes", contrast(("F.normalize(torch.cat([z1, z2]), dim=1)", "torch.cat([z1, z2])")),
          "and no cosines"),
    wrong("contrast_classes", contrast(("dim=1)", "dim=0)")), "(dim=0)"),
    wrong("contrast_classes", contrast(("/ temperature", "* temperature")), "Divide: a low one"),
    wrong("contrast_classes", contrast(("-torch.inf), other_view", '-torch.inf), other_view, reduction="sum"')),
          "sum over the 2N rows"),
    wrong("contrast_classes", contrast(("return F", "return -F")), "the wrong sign"),
    wrong("contrast_classes", contrast(("[z1, z2]", "[z1, z2.detach()]")), "a gradient is missing"),
    wrong("contrast_classes", "def contrast_classes(z1, z2, labels, temperature):\n"
          "    logits = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T / temperature\n"
          "    same = (labels[:, None] == labels) & ~torch.eye(len(z1), dtype=bool)\n"
          "    return F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(z1)))",
          "All of both views"),
    wrong("unshared", unshared(("(s / epsilon).softmax(1).detach()", "sinkhorn(s, epsilon)"),
          ("def unshared_loss", "from simlab.methods import sinkhorn\ndef unshared_loss")), "still shared out"),
    wrong("unshared", unshared((".detach()", "")), "they are constants"),
    wrong("unshared", unshared(("other / temperature", "other / epsilon"),
          ("s / epsilon", "s / temperature")), "are swapped"),
    wrong("unshared", unshared(("(s1, s2) + ", "(s1, s1) + "), ("(s2, s1)", "(s2, s2)")), "its own code"),
    wrong("unshared", unshared((" + cross_entropy(s2, s1)) / 2", ")")), "one direction is missing"),
    wrong("unshared", unshared((" + cross_entropy(s2, s1)) / 2", " + cross_entropy(s2, s1))")),
          "twice as large"),
    wrong("unshared", unshared((".sum(1).mean()", ".sum()")), "sum over the images"),
    wrong("unshared", unshared((".sum(1).mean()", ".mean()")), "sums over them"),
    wrong("unshared", unshared(("return -(", "return (")), "the wrong sign"),
    wrong("unshared", unshared(("scores = -torch.ones(n, k)", "scores = torch.zeros(n, k)")),
          "cosines allow less"),
    wrong("unshared", unshared(("scores[:, 0] = 1.0", "scores[:, 0] = 9.0")), "from -1 to 1"),
    wrong("unshared", unshared(("scores[:, 0] = 1.0", "scores[torch.arange(n), torch.arange(n) % k] = 1.0")),
          "that is no collapse"),
    wrong("unshared", unshared(("    scores[:, 0] = 1.0\n", "")), "nothing is predicted"),
    wrong("unshared", unshared(("answer = (unshared_loss, all_on_one)", "answer = unshared_loss")),
          "a pair was expected"),
    wrong("blind_spots", blind(("along[:, None].repeat(1, d)", "torch.ones(n, d)")),
          "do not differ at all"),
    wrong("blind_spots", blind(("(-2, 2, n)", "(-1, 1, n)")), "term asks for 1"),
    wrong("blind_spots", blind(("along[:, None].repeat(1, d)", "9 * torch.randn(n, d)")),
          "more than one direction"),
    wrong("blind_spots", blind(("torch.ones(n, d)", "torch.randn(n, d)")), "nothing has collapsed to"),
    wrong("blind_spots", blind(("answer = (fools_variance, fools_covariance)", "answer = fools_variance")),
          "a pair was expected"),
    wrong("batches", batch(("second.append(by_others[0])", "second.append(drawings[0])")),
          "paired with itself"),
    wrong("batches", batch((" != designers[drawings[0]]]", " > -1][1:]")), "a pair is by one designer"),
    wrong("batches", batch(("second.append(by_others[0])", "second.append((designers != "
          "designers[drawings[0]]).nonzero()[0, 0])")), "two different things"),
    wrong("batches", BY_DRAWINGS.replace("{and_new}", ""), "in the batch twice"),
    wrong("batches", BY_DRAWINGS.replace("{and_new}", " and int(things[i]) not in seen"),
          "different chances"),
    wrong("batches", batch((SHUFFLED, "")), "one order only"),
    wrong("batches", batch((SHUFFLED, "        if torch.rand(1, generator=generator) < 0.5:\n"
          "            drawings = drawings.flip(0)\n")), "pairs never occur"),
    wrong("batches", batch(("(len(every_thing), generator=generator)", "(len(every_thing))")),
          "the same seed gives another batch"),
    wrong("batches", batch(("    first, second = [], []\n",
          "    first, second = [], []\n    generator = torch.Generator().manual_seed(0)\n")),
          "every call gives the same batch"),
    wrong("batches", batch(("torch.stack(first), torch.stack(second)",
          "things[torch.stack(first)], things[torch.stack(second)]")), "the numbers of things"),
    wrong("batches", batch(("        if len(first) == size:\n            break\n", "")),
          "4 indices were expected"),
    wrong("batches", batch(("torch.stack(first), torch.stack(second)", "torch.stack(first + second)")),
          "a pair (first, second)"),
    wrong("recall", retrieval((".masked_fill(same_designer, -torch.inf)", "")), "in its own gallery"),
    wrong("recall", retrieval(("same_designer, -torch.inf", "torch.eye(len(u)).bool(), -torch.inf")),
          "found by the style"),
    wrong("recall", retrieval(("same_designer, -torch.inf", "torch.eye(len(u)).bool(), -torch.inf"),
          ("(things[indices] == things[:, None])", "((things[indices] == things[:, None]) & "
           "(designers[indices] != designers[:, None]))")), "*before* you take"),
    wrong("recall", retrieval(("F.normalize(features, dim=1)", "features")), "inner products"),
    wrong("recall", retrieval(("(features, dim=1)", "(features, dim=0)")), "(dim=0)"),
    wrong("recall", retrieval(("-torch.inf", "torch.inf"), ("topk(k, dim=1", "topk(k, dim=1, largest=False")),
          "least similar"),
    wrong("recall", retrieval((".any(1)\n    can", ".float().mean(1)\n    can")), "a precision"),
    wrong("recall", retrieval(("topk(k,", "topk(1,")), "k is not used"),
    wrong("recall", retrieval(("is_found[can_be_found]", "is_found[can_be_found & (designers == 0)]")),
          "only one designer's"),
    wrong("recall", retrieval(("is_found[can_be_found]", "is_found")), "leave them out of the share"),
    wrong("contrast_things", attract(("    return -(total / number)[number > 0].mean()",
          "    log_mean = log_share.masked_fill(~positive, -torch.inf).logsumexp(1) - number.log()\n"
          "    return -log_mean[number > 0].mean()")), "inside the logarithm"),
    wrong("contrast_things", attract(("(total / number)", "total")), "added and not averaged"),
    wrong("contrast_things", attract(("-(total / number)[number > 0].mean()", "-log_share[positive].mean()")),
          "mean over all pairs"),
    wrong("contrast_things", attract(("    logits =", "    positive &= positive.cumsum(1) == 1\n    logits =")),
          "only one positive"),
    wrong("contrast_things", attract((".masked_fill(itself, -torch.inf)", "")), "in its own denominator"),
    wrong("contrast_things", attract(("logits.log_softmax(1)", "logits - torch.logaddexp(logits, "
          "logits.masked_fill(positive, -torch.inf).logsumexp(1, keepdim=True))")), "as in exercise 3.2"),
    wrong("contrast_things", attract(("(total / number)[number > 0]", "(total / number.clamp(min=1))")),
          "counts as a loss of 0"),
    wrong("contrast_things", attract(("    u = F", "    many = (things[:, None] == things).sum(1) > 1\n"
          "    z, things = z[many], things[many]\n    u = F")), "is left out altogether"),
    wrong("contrast_things", attract(("[number > 0]", "")), "0 / 0"),
    wrong("contrast_things", attract(("torch.where(positive, log_share, 0)", "(positive * log_share)")),
          "zero times an infinity"),
    wrong("contrast_things", attract(("F.normalize(z, dim=1)", "z")), "and no cosines"),
    wrong("contrast_things", attract(("(z, dim=1)", "(z, dim=0)")), "(dim=0)"),
    wrong("contrast_things", attract(("/ temperature", "* temperature")), "Divide: a low one"),
    wrong("contrast_things", attract((".mean()", ".sum()")), "sum over the drawings"),
    wrong("contrast_things", attract(("return -(", "return (")), "the wrong sign"),
    wrong("contrast_things", attract(("F.normalize(z,", "F.normalize(z.detach(),")), "no gradient flows"),
    wrong("confusions", confused(("moved / 2", "moved")), "*Half* of that distance"),
    wrong("confusions", confused(("drawings.flatten(1))", "drawings.flatten(1)) ** 2")), "of a half"),
    wrong("confusions", confused(("torch.cdist(changed.flatten(1), drawings.flatten(1))",
          "torch.cdist(drawings.flatten(1), changed.flatten(1))")), "the axes are swapped"),
    wrong("confusions", confused(("torch.cdist(changed.flatten(1), drawings.flatten(1))",
          "torch.cdist(drawings.flatten(1), drawings.flatten(1))"),
          ("distances.diagonal().clone()", "(changed - drawings).flatten(1).norm(dim=1)")), "*changed* one"),
    wrong("confusions", confused(("distances.fill_diagonal_(torch.inf).min(1)", "distances.max(1)"),
          ("nearest < moved", "nearest > moved")), "the farthest drawing"),
    wrong("confusions", confused(("nearest < moved", "nearest <= moved")), "its duplicate"),
    wrong("confusions", confused(("torch.where(nearest < moved / 2, index, -1)", "index")), "get -1"),
    wrong("confusions", confused(("    return torch.where(nearest < moved / 2, index, -1)",
          "    is_near = distances < moved[:, None] / 2\n"
          "    return torch.where(is_near.any(1), is_near.int().argmax(1), -1)")), "and not the nearest"),
    wrong("confusions", confused((".fill_diagonal_(torch.inf)", ""), ("nearest < moved / 2", "nearest <= moved")),
          "has become itself"),
    wrong("confusions", confused(('"upside down": True', '"upside down": False')), "thumbs down"),
    wrong("confusions", confused(('tenth": False', 'tenth": True')), "differ in colour alone"),
    wrong("confusions", confused(('"mirrored": True', '"mirrored": None')), "a prediction that you wrote"),
    wrong("confusions", confused(("answer = (turned_into, becomes_another)", "answer = turned_into")),
          "a pair was expected"),
]  # fmt: skip


@pytest.mark.parametrize("name, code, why", WRONG)
def test_a_typical_mistake_gets_the_message_meant_for_it(name, code, why, capsys):
    said = verdict(BY_NAME[name], code, capsys)
    assert "Not yet:" in said and why in said.split("Not yet:")[1], said


def test_every_exercise_has_typical_mistakes():
    assert {p.values[0] for p in WRONG} == set(BY_NAME)
