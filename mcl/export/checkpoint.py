"""Checkpoint files: read without running their code, write completely or not at all."""

import os
import pickle
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from .._hosts import let_checkpoints_load
from ..errors import InputError


def read_checkpoint(path: str, trust: bool = False) -> dict:
    """Read a checkpoint file. Tensors are on the CPU, mapped from disk.

    Args:
        path: a file that ``torch.save`` wrote.
        trust: whether to unpickle objects other than tensors and plain values. This
            runs whatever code the file names.

    Raises:
        InputError: when there is no such file, it is no checkpoint, or it holds
            such objects without ``trust``.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such checkpoint")
    try:
        checkpoint = _load(path, weights_only=not trust)
    except Exception as error:  # unpickling raises many kinds
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused and isinstance(error, pickle.UnpicklingError):
            raise InputError(
                f"{path}: beside tensors it holds {refused[1]}, and reading that runs "
                "code from the file; if you trust its source, give --trust"
            ) from error
        raise InputError(f"{path}: it is no checkpoint, or damaged") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"{path}: it holds a {type(checkpoint).__name__}, no weights")
    return checkpoint


def _load(path: str, weights_only: bool):
    """``torch.load``, mapped from disk unless the file was written before torch 1.6."""
    # The maintained MMEngine revokes the declaration after it has read a file.
    let_checkpoints_load()
    try:
        return torch.load(path, "cpu", weights_only=weights_only, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, "cpu", weights_only=weights_only)


def load_weights(path: str, trust: bool = False) -> dict[str, Tensor]:
    """Read the weights of a checkpoint file, without prefixes of wrappers.

    Raises:
        InputError: as :func:`read_checkpoint`, or when the file has no weights.
    """
    checkpoint = read_checkpoint(path, trust)
    weights = checkpoint.get("state_dict", checkpoint)
    if not isinstance(weights, Mapping) or not weights:
        raise InputError(f"{path}: its state_dict holds no weights")
    for name, weight in weights.items():
        if not isinstance(name, str) or not isinstance(weight, Tensor):
            raise InputError(
                f"{path}: there are no weights in `state_dict` or at the top: {name!r} "
                f"is a {type(weight).__name__}"
            )
        if weight.is_meta:
            raise InputError(f"{path}: {name} has a shape and no numbers")
    return {without_wrappers(name): w for name, w in weights.items()}


def without_wrappers(name: str) -> str:
    """A weight's name without parts added by DistributedDataParallel and compiling."""
    return name.removeprefix("module.").replace("_orig_mod.", "")


def check_out(out: str, checkpoint: str) -> None:
    """Check that ``out`` can be the name of a new file.

    Raises:
        InputError: when it is the checkpoint, a folder or a device.
    """
    if not out or out.endswith("/") or Path(out).is_dir():
        raise InputError(f"OUT={out}: this is a folder; name a file in it")
    if Path(out).exists() and not Path(out).is_file():
        raise InputError(f"OUT={out}: this is no plain file; name another")
    if os.path.realpath(out) == os.path.realpath(checkpoint):
        raise InputError(f"OUT={out}: this is the checkpoint itself; name another file")


def write_tensors(content: Mapping, out: str, save: Callable = torch.save) -> None:
    """Write ``out`` completely or not at all.

    Args:
        content: what to write.
        out: path of the file.
        save: function of the content and an open file.

    Raises:
        InputError: when it cannot be written.
    """
    partial = Path(f"{out}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            save(content, file)
        os.replace(partial, out)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{out}: it cannot be written ({error})") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
