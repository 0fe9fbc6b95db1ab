"""A run's encoder for programs that have torch and not simlab.

encoder.pt2         the encoder as a program, which torch.export.load reads
encoder.pt          its weights alone, for torch.load(..., weights_only=True)
encoder.json        what it is, what it expects of images, the classes' names
load_encoder.py     ten lines that make features of images
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import name_in_errors, pack_tensors, write_bytes, write_json
from .preprocessing import Preprocessing

LOADER = '''"""Features of images; all that is needed is torch and the files beside this one."""

import json
from pathlib import Path

import torch

HERE = Path(__file__).parent
expects = json.loads((HERE / "encoder.json").read_text())["preprocessing"]
encoder = torch.export.load(HERE / "encoder.pt2").module()
mean, std = (torch.tensor(expects[name]).view(-1, 1, 1) for name in ("mean", "std"))


@torch.no_grad()
def encode(images):
    """Map uint8 images [N, C, S, S], of the channels and size in `expects`, to [N, D]."""
    return encoder((images / 255 - mean) / std)
'''


def export_encoder(encoder: nn.Module, description: dict[str, Any], folder: str | Path) -> Path:
    """Write an encoder's files; see the module's head.

    Args:
        encoder: In evaluation mode.
        description: The content of the run's encoder.json.
        folder: Where to; it is made.

    Returns:
        The folder.
    """
    path = Path(folder).expanduser()
    with name_in_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    write_bytes(path / "encoder.pt", pack_tensors(encoder.state_dict()))
    write_json(path / "encoder.json", description)
    expected = Preprocessing.from_dict(description["preprocessing"])
    try:
        program = _program(encoder, expected)
    except Exception as error:  # of many kinds: what torch.export can't follow
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"the encoder can't be exported as a program ({reason}): {path} has its weights alone",
            stacklevel=2,
        )
        return path
    torch.export.save(program, path / "encoder.pt2")
    write_bytes(path / "load_encoder.py", LOADER.encode())
    return path


def _program(encoder: nn.Module, expected: Preprocessing) -> torch.export.ExportedProgram:
    """The encoder as a graph of torch's operators, for any number of images."""
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    x = torch.zeros(2, expected.channels, expected.size, expected.size, device=device)
    with torch.no_grad():
        return torch.export.export(
            encoder.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("images")},)
        )
