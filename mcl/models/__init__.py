from .head import MCLHead
from .losses import MultiLevelContrastiveLoss, MultiLevelRegressionLoss
from .mcl import MCL
from .neck import MCLNeck
from .parts import build_preprocessor
from .preprocessor import MCLDataPreprocessor
from .supervised import MCLSupervised, TileClassifierHead
from .target import TargetNetwork

__all__ = [
    "MCL",
    "MCLDataPreprocessor",
    "MCLHead",
    "MCLNeck",
    "MCLSupervised",
    "MultiLevelContrastiveLoss",
    "MultiLevelRegressionLoss",
    "TargetNetwork",
    "TileClassifierHead",
    "build_preprocessor",
]
