"""Weights files: safetensors that contain their architecture, and external checkpoints without pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src.artifacts import atomic
from src.config import UserError
from src.models.architecture import Architecture
from src.models.build import create_model
from src.models.network import Network
from src.reading import decoding, first_line, made_by, read_architecture, read_tensors

WRAPPERS = (
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
)  # prefixes of DDP, torch.compile and common training scripts


def save_model(path: Path, architecture: Architecture, state: dict[str, torch.Tensor]) -> None:
    """Save weights with their architecture, atomically, without the prefixes of torch.compile and DDP."""
    plain = {
        strip(name, ("module.", "_orig_mod.")): tensor.detach().contiguous().cpu()
        for name, tensor in state.items()
    }
    with atomic(path) as temporary:
        save_file(
            plain, temporary, metadata={"architecture": json.dumps(architecture.as_dict(), sort_keys=True)}
        )


def load_model(path: Path, device: torch.device | str = "cpu") -> Network:
    """Build the network of a file written by `save_model`, load its weights and set evaluation mode.

    Nothing is downloaded. Raises `UserError` naming the file.
    """
    values = read_architecture(path)
    with decoding(path):
        architecture = Architecture(**values)
    try:
        model = create_model(architecture)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = first_line(error)
        raise UserError(
            f"{path}: the network that it describes cannot be built here ({why}); {made_by(path)}"
        ) from None
    load_weights(model, path)
    return model.to(device).eval()


def load_weights(model: Network, path: Path) -> None:
    """Load our own weights file into a network of the same architecture; raises `UserError`."""
    state = read_tensors(path)
    with decoding(path):
        model.load_state_dict(state)


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an external .safetensors or .pth file for `model.weights`, without wrapper prefixes.

    A .pth file is loaded with `weights_only=True`, so an untrusted checkpoint cannot run code. Raises
    `UserError` for a file that cannot be read or holds no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model.weights: {path} cannot be read ({first})") from None
    except Exception as error:  # pickle errors have many types and the same meaning here
        raise UserError(
            f"model.weights: {path} is no checkpoint, or holds more than tensors ({type(error).__name__}); "
            f"save its state dict as safetensors"
        ) from None
    state = state if isinstance(state, dict) else {}
    inner = (state.get(key) for key in ("state_dict_ema", "state_dict", "model"))
    state = next((value for value in inner if isinstance(value, dict)), state)
    tensors = {
        strip(str(name), WRAPPERS): value for name, value in state.items() if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise UserError(f"model.weights: {path} holds no tensors; it should be a state dict of the backbone")
    return tensors


def strip(name: str, prefixes: tuple[str, ...]) -> str:
    """A parameter name without the wrappers' prefixes, also when nested."""
    while True:
        shorter = next((name[len(p) :] for p in prefixes if name.startswith(p)), name)
        if shorter == name:
            return name
        name = shorter
