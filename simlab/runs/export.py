"""A run's encoder for programs that have torch and not simlab.

encoder.pt2         the encoder as a program, which torch.export.load reads
encoder.pt          its weights alone, for torch.load(..., weights_only=True); or
encoder.safetensors the same in the format of that name
encoder.json        what it is, what it expects of images, the classes' names
load_encoder.py     ten lines that make features of images
"""

import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .files import name_in_errors, pack_tensors, write_bytes, write_json
from .preprocessing import Preprocessing

Weights = Literal["pt", "safetensors"]

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


def export_encoder(
    encoder: nn.Module, description: dict[str, Any], folder: str | Path, weights: Weights = "pt"
) -> Path:
    """Write an encoder's files; see the module's head.

    Args:
        encoder: In evaluation mode.
        description: The content of the run's encoder.json.
        folder: Where to; it is made.
        weights: The format of the weights: "pt" or "safetensors".

    Returns:
        The folder.

    Raises:
        ValueError: Another format.
        ImportError: The package safetensors is not installed.
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights={weights!r}: expected {' or '.join(get_args(Weights))}")
    packed = _packed(encoder.state_dict(), weights)
    path = Path(folder).expanduser()
    with name_in_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    write_bytes(path / f"encoder.{weights}", packed)
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


def _packed(state: dict[str, Tensor], weights: Weights) -> bytes:
    """The weights as the content of a file."""
    if weights == "pt":
        return pack_tensors(state)
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise ImportError(
            'weights="safetensors" needs the package of that name: pip install safetensors; '
            'weights="pt" does without'
        ) from error
    # each on its own: the format has no place for tensors that share their memory
    apart = {name: x.detach().cpu().contiguous().clone() for name, x in state.items()}
    packed: bytes = save(apart)
    return packed


def _program(encoder: nn.Module, expected: Preprocessing) -> torch.export.ExportedProgram:
    """The encoder as a graph of torch's operators, for any number of images."""
    device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
    x = torch.zeros(2, expected.channels, expected.size, expected.size, device=device)
    with torch.no_grad():
        return torch.export.export(
            encoder.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("images")},)
        )
