from .head import MCLHead, MultiLevelContrastiveLoss
from .mcl import MCL
from .neck import MCLNeck
from .preprocessor import MCLDataPreprocessor
from .target import TargetNetwork

__all__ = [
    "MCL",
    "MCLDataPreprocessor",
    "MCLHead",
    "MCLNeck",
    "MultiLevelContrastiveLoss",
    "TargetNetwork",
]
