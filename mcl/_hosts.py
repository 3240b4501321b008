"""What must be so before a module of a host can be imported; comes first."""

from importlib.util import find_spec

import mmcv_ops_fallback

_missing = [p for p in ("mmengine", "mmcv", "mmdet", "mmpretrain") if not find_spec(p)]
if _missing:
    raise ImportError(
        f"mcl needs {', '.join(_missing)}: run `pip install -r requirements.txt`"
    )

mmcv_ops_fallback.install()
