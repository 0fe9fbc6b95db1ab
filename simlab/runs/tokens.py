"""The code of a text, without its comments, docstrings and layout: what a digest is taken of.

A syntax tree or bytecode would do as well, but both change with the version of Python; tokens do
not. The one exception is an f-string, a single token up to Python 3.11 and many since: here it
is a single one always.
"""

import io
import re
import tokenize
from collections.abc import Iterator

SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
MARKS = {tokenize.INDENT: "<indent>", tokenize.DEDENT: "<dedent>", tokenize.NEWLINE: "<line>"}


def _types(*names: str) -> set[int]:
    """The token types of these names; a Python that lacks one has no such tokens."""
    return {getattr(tokenize, name) for name in names if hasattr(tokenize, name)}


STARTS = _types("FSTRING_START", "TSTRING_START")
ENDS = _types("FSTRING_END", "TSTRING_END")


def code_tokens(source: str) -> list[str]:
    """Return the tokens of a text that decide what it computes.

    Args:
        source: A file, a class or a function. Its first line may be indented as the others are.

    Returns:
        The tokens, with marks for the ends of lines and for deeper and shallower indentation.
        Comments, blank lines and strings that stand alone (docstrings) are left out.

    Raises:
        SyntaxError: It is no Python.
    """
    tokens: list[str] = []
    line: list[str] = []  # the tokens of the present logical line
    for kind, text in _tokens(source):
        if kind in (tokenize.INDENT, tokenize.DEDENT):
            tokens.append(MARKS[kind])
        elif kind == tokenize.NEWLINE:
            if not all(map(_is_plain_string, line)):
                tokens += [*line, MARKS[kind]]
            line = []
        else:
            line.append(text)
    return tokens + line


def _tokens(source: str) -> Iterator[tuple[int, str]]:
    """Yield (type, text) of every token that counts, each f-string as one."""
    lines = list(io.StringIO(source))
    depth = 0  # of f-strings within f-strings
    start = (0, 0)
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in STARTS:
                if depth == 0:
                    start = token.start
                depth += 1
            elif token.type in ENDS:
                depth -= 1
                if depth == 0:
                    yield tokenize.STRING, _text_between(lines, start, token.end)
            elif depth == 0 and token.type not in SILENT:
                yield token.type, token.string
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from error


def _text_between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from one (line from 1, column) to another."""
    rows = lines[start[0] - 1 : end[0]]
    rows[-1] = rows[-1][: end[1]]
    rows[0] = rows[0][start[1] :]
    return "".join(rows)


def _is_plain_string(token: str) -> bool:
    """Whether a token is a string that computes nothing: no f-string."""
    prefix = re.match(r"([A-Za-z]*)['\"]", token)
    return prefix is not None and not set(prefix[1].lower()) & {"f", "t"}
