"""MCL: multi-level contrastive learning for dense prediction (arXiv 2304.02010).

Importing this package registers its modules with MMPretrain; a config says
``custom_imports = dict(imports=['mcl'], allow_failed_imports=False)``.
"""

from . import _hosts, datasets, engine, models

__version__ = "0.1.0"

__all__ = ["__version__", "_hosts", "datasets", "engine", "models"]
