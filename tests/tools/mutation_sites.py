"""Find the places in a Python source where one small change should be noticed by a test.

A mutation replaces one piece of a source by another text, as a slip of the pen would: `<` for `<=`,
`+` for `-`, another number, a condition the other way round, a forgotten argument or statement.
What only people read is left alone: docstrings, messages, type hints, `__repr__`, printed lines.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.MatMult: ("@", "*"),
}
FOR_READERS = {"__repr__", "__str__", "_repr_html_", "extra_repr"}
LOGGING = {"print", "warn", "debug", "info", "warning", "error", "exception", "log", "write"}


@dataclass(frozen=True)
class Mutation:
    """One change of a source: its bytes from `start` to `end` become `text`."""

    path: str  # relative to the root of the checkout
    line: int
    kind: str
    start: int
    end: int
    text: str

    def apply(self, source: bytes) -> bytes:
        """Return the changed source."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def lines(self, source: bytes) -> tuple[str, str]:
        """Return the line that changes, before and after, without its indentation.

        A piece of several lines is shown joined, with single spaces.
        """
        begin = source.rfind(b"\n", 0, self.start) + 1
        finish = source.find(b"\n", self.end)
        rest = source[self.end : finish if finish >= 0 else len(source)]
        before = source[begin : self.end] + rest
        after = source[begin : self.start] + self.text.encode() + rest
        return " ".join(before.decode().split()), " ".join(after.decode().split())

    def is_valid(self, source: bytes) -> bool:
        """Tell whether the changed source still parses, into another program."""
        try:
            changed = ast.parse(self.apply(source))
        except SyntaxError:
            return False
        return ast.dump(changed) != ast.dump(ast.parse(source))


class SiteCollector(ast.NodeVisitor):
    """Collect the mutations of one source file in `mutations`."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path = path
        self.source = source
        self.mutations: list[Mutation] = []
        self.in_default = False
        self.line_starts = [0]
        for line in source.splitlines(keepends=True):
            self.line_starts.append(self.line_starts[-1] + len(line))

    def start(self, node: ast.AST) -> int:
        return self.line_starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.AST) -> int:
        return self.line_starts[node.end_lineno - 1] + node.end_col_offset

    def add(self, kind: str, start: int, end: int, text: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        if self.in_default:
            kind = "default changed"
        self.mutations.append(Mutation(self.path, line, kind, start, end, text))

    def add_operator(self, kind: str, left: ast.AST, right: ast.AST, old: str, new: str) -> None:
        """Swap the operator that stands between two operands."""
        gap = self.end(left)
        at = self.source.find(old.encode(), gap, self.start(right))
        if at >= 0:
            self.add(kind, at, at + len(old), new)

    # ---- what is left alone ----

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave formatted strings: they are messages and names."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit_default(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in [*node.defaults, *node.kw_defaults]:
            if default is not None:
                self.visit_default(default)

    def visit_default(self, node: ast.expr) -> None:
        self.in_default = isinstance(node, ast.Constant)
        self.visit(node)
        self.in_default = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name in FOR_READERS:
            return
        for child in [*node.decorator_list, node.args, *node.body]:
            self.visit(child)

    # ---- statements ----

    def delete(self, node: ast.stmt) -> None:
        self.add("statement deleted", self.start(node), self.end(node), "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not is_logging(node.value):
            self.delete(node)
            self.visit(node.value)

    def visit_Raise(self, node: ast.Raise) -> None:
        self.delete(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.delete(node)

    def visit_Break(self, node: ast.Break) -> None:
        self.delete(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self.delete(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.delete(node)
        if type(node.op) in ARITHMETIC:
            old, new = ARITHMETIC[type(node.op)]
            self.add_operator("arithmetic swapped", node.target, node.value, old + "=", new + "=")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        value = node.value
        if value is None or isinstance(value, ast.Constant) and value.value is None:
            return
        self.add("return None", self.start(value), self.end(value), "None")
        self.visit(value)

    def visit_If(self, node: ast.If) -> None:
        if "__name__" in ast.unparse(node.test):
            return
        self.negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    # ---- expressions ----

    def negate(self, test: ast.expr) -> None:
        start, end = self.start(test), self.end(test)
        segment = self.source[start:end].decode()
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            opposite = segment.removeprefix("not").lstrip()
        else:
            opposite = f"not ({segment})"
        self.add("condition negated", start, end, opposite)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            old, new = COMPARISONS[type(operator)]
            self.add_operator("comparison changed", left, right, old, new)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in ARITHMETIC and not (is_text(node.left) or is_text(node.right)):
            old, new = ARITHMETIC[type(node.op)]
            self.add_operator("arithmetic swapped", node.left, node.right, old, new)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.add_operator("and/or swapped", left, right, old, new)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.add("boolean negated", self.start(node), self.end(node), repr(not value))
        elif isinstance(value, int):
            self.add("number changed", self.start(node), self.end(node), repr(value + 1))
        elif isinstance(value, float):
            other = 2 * value if value else 1.0
            self.add("number changed", self.start(node), self.end(node), repr(other))

    def visit_Call(self, node: ast.Call) -> None:
        if is_logging(node):
            return
        arguments = sorted([*node.args, *node.keywords], key=self.start)
        for before, argument in zip(arguments, arguments[1:], strict=False):
            is_last = argument is arguments[-1] and not isinstance(argument, ast.Starred)
            if is_last or isinstance(argument, ast.keyword) and argument.arg:
                self.add("argument dropped", self.end(before), self.end(argument), "")
        self.generic_visit(node)


def is_logging(node: ast.Call) -> bool:
    """Tell whether a call only prints, warns or logs."""
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in LOGGING


def is_text(node: ast.expr) -> bool:
    """Tell whether an operand is a written string, of which arithmetic makes no sense."""
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def shares(sizes: dict[str, int], number: int) -> dict[str, int]:
    """Divide a number among the files in proportion to their sizes (largest remainder)."""
    total = sum(sizes.values())
    exact = {path: number * size / total for path, size in sizes.items()}
    counts = {path: int(share) for path, share in exact.items()}
    by_remainder = sorted(exact, key=lambda path: (counts[path] - exact[path], path))
    for path in by_remainder[: number - sum(counts.values())]:
        counts[path] += 1
    return counts


def in_turn(mutations: list[Mutation], generator: random.Random) -> Iterator[Mutation]:
    """Draw without replacement: first a kind of change, then one of its places.

    Without this, numbers (the most frequent kind) would take nearly every draw.
    """
    by_kind: dict[str, list[Mutation]] = {}
    for mutation in mutations:
        by_kind.setdefault(mutation.kind, []).append(mutation)
    while by_kind:
        kind = generator.choice(sorted(by_kind))
        places = by_kind[kind]
        yield places.pop(generator.randrange(len(places)))
        if not places:
            del by_kind[kind]


def sample(root: Path, files: list[Path], number: int, seed: int) -> list[Mutation]:
    """Draw mutations, spread over the files in proportion to their lines.

    Args:
        root: the checkout; the mutations' paths are relative to it.
        files: the sources that may be changed.
        number: how many to draw.
        seed: the same seed and the same sources give the same mutations.

    Returns:
        The mutations, ordered by file and line; all of them parse.
    """
    sources = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(files)}
    sites: dict[str, list[Mutation]] = {}
    for path, source in sources.items():
        collector = SiteCollector(path, source)
        collector.visit(ast.parse(source))
        if collector.mutations:
            sites[path] = collector.mutations
    quotas = shares({path: sources[path].count(b"\n") for path in sites}, number)
    drawn: list[Mutation] = []
    for path, quota in quotas.items():
        candidates = in_turn(sites[path], random.Random(f"{seed} {path}"))
        valid = (mutation for mutation in candidates if mutation.is_valid(sources[path]))
        drawn += [mutation for mutation, _ in zip(valid, range(quota), strict=False)]
    return sorted(drawn, key=lambda mutation: (mutation.path, mutation.start))
