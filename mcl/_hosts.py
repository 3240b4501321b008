"""What must be so before a module of a host can be imported; comes first."""

from importlib.util import find_spec

import numpy as np
import torch

import mmcv_ops_fallback

# The fallback installs itself, and speaks up where MMCV is missing.
__all__ = ["mmcv_ops_fallback"]
_missing = [p for p in ("mmengine", "mmdet", "mmpretrain") if not find_spec(p)]
if _missing:
    raise ImportError(
        f"mcl needs {', '.join(_missing)}: run `pip install -r requirements.txt`"
    )


def _let_checkpoints_load() -> None:
    """Declare what the original MMEngine keeps in a checkpoint safe to load.

    From torch 2.6 on `torch.load` refuses its HistoryBuffer; the maintained
    MMEngine takes care of that itself.
    """
    from mmengine.logging import HistoryBuffer
    from mmengine.runner import checkpoint

    if hasattr(checkpoint, "_safe_torch_load"):
        return
    core = getattr(np, "_core", None) or np.core
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            getattr,
            core.multiarray._reconstruct,
            core.multiarray.scalar,
            np.ndarray,
            np.dtype,
            np.dtypes.Float64DType,
            np.dtypes.Int64DType,
        ]
    )


_let_checkpoints_load()
