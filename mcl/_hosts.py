"""What must be so before a module of a host can be imported; comes first."""

import codecs
from importlib.util import find_spec
from pickle import UnpicklingError

import numpy as np
import torch

import mmcv_ops_fallback

# The fallback installs itself, and speaks up where MMCV is missing.
__all__ = ["let_checkpoints_load", "mmcv_ops_fallback"]
_missing = [p for p in ("mmengine", "mmdet", "mmpretrain") if not find_spec(p)]
if _missing:
    raise ImportError(
        f"mcl needs {', '.join(_missing)}: run `pip install -r requirements.txt`"
    )


def let_checkpoints_load() -> None:
    """Declare what MMEngine keeps in a checkpoint safe to load.

    Files are read here with ``weights_only``, which refuses other objects. The
    maintained MMEngine declares these too, but only while it reads a file itself.
    """
    from mmengine.logging import HistoryBuffer

    def buffer_method(owner: type, name: str):
        """The one use that a HistoryBuffer's pickle has for ``getattr``.

        The builtin itself would hand out whatever an attacker asks for.
        """
        if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
            raise UnpicklingError(f"refused: GLOBAL getattr of {owner}.{name}")
        return getattr(owner, name)

    # Looked up by these names, in every torch from 2.4 on.
    buffer_method.__module__ = "builtins"
    buffer_method.__name__ = buffer_method.__qualname__ = "getattr"
    core = getattr(np, "_core", None) or np.core
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            buffer_method,
            slice,
            # Torch before 2.6 does not know the one that NumPy's scalars need.
            codecs.encode,
            core.multiarray._reconstruct,
            core.multiarray.scalar,
            np.ndarray,
            np.dtype,
            *(type(np.dtype(d)) for d in (np.uint32, np.int64, np.float64)),
        ]
    )


let_checkpoints_load()
