"""Preparation for the import of the hosts' modules; this module comes first."""

import codecs
from importlib.util import find_spec
from pickle import UnpicklingError

import numpy as np
import torch

import mmcv_ops_fallback

# Importing the fallback installs it, or raises an error when MMCV is missing.
__all__ = ["let_checkpoints_load", "mmcv_ops_fallback"]
_missing = [p for p in ("mmengine", "mmdet", "mmpretrain") if not find_spec(p)]
if _missing:
    raise ImportError(
        f"mcl needs {', '.join(_missing)}: run `pip install -r requirements.txt`"
    )


def let_checkpoints_load() -> None:
    """Declare MMEngine's objects in checkpoints as safe to load.

    ``weights_only`` refuses all other objects. The maintained MMEngine also declares
    them, but only while it reads a file itself.
    """
    from mmengine.logging import HistoryBuffer

    def buffer_method(owner: type, name: str):
        """``getattr`` restricted to its one use in a HistoryBuffer's pickle.

        The builtin would return any attribute that an attacker names.
        """
        if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
            raise UnpicklingError(f"refused: GLOBAL getattr of {owner}.{name}")
        return getattr(owner, name)

    # torch >= 2.4 looks it up by these names.
    buffer_method.__module__ = "builtins"
    buffer_method.__name__ = buffer_method.__qualname__ = "getattr"
    core = getattr(np, "_core", None) or np.core
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            buffer_method,
            slice,
            # NumPy's scalars need it, and torch before 2.6 does not allow it.
            codecs.encode,
            core.multiarray._reconstruct,
            core.multiarray.scalar,
            np.ndarray,
            np.dtype,
            *(type(np.dtype(d)) for d in (np.uint32, np.int64, np.float64)),
        ]
    )


let_checkpoints_load()
