"""Files that are written completely or not at all, and read without executing anything."""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch


def digest(data: bytes) -> str:
    """Return 64 bits of SHA-256, as 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:16]


@contextlib.contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Let an error of the file system say which path it is about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a temporary file and rename it once it is on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with name_in_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary as JSON, completely or not at all."""
    write_bytes(path, json.dumps(content, indent=1).encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: It is no JSON; the message names the file.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def pack_tensors(state: dict[str, Any]) -> bytes:
    """Return a dictionary of tensors and plain values as the bytes of a file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack_tensors(data: bytes, path: Path) -> dict[str, Any]:
    """Read what `pack_tensors` made, on the CPU; a pickle that could run code is refused.

    Args:
        data: The bytes.
        path: Where they come from, for the messages.

    Raises:
        ValueError: They hold more than tensors and plain values, or no dictionary.
    """
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, and torch's text advises to execute the pickle
        raise ValueError(f"{path} is refused: it holds more than tensors and values") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}: expected a dict of tensors")
    return state


def read_checked(path: Path, expected: str | None) -> bytes:
    """Read a file whose digest was stored.

    Raises:
        ValueError: The bytes are not those that were written.
    """
    data = path.read_bytes()
    if digest(data) != expected:
        raise ValueError(f"{path} is damaged: its bytes do not match the stored digest")
    return data
