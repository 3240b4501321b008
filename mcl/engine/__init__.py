from .guards import LoadReportHook, NonFiniteLossHook, UnreadableImageHook
from .knn import KNNHook
from .lars import MultiTensorLARS
from .metrics import LevelAccuracy
from .monitors import EmbeddingMonitorHook
from .optim import BFloat16OptimWrapper, LARSConstructor
from .steps import IterationSeedHook, OptimStepParamSchedulerHook, TargetUpdateHook

__all__ = [
    "BFloat16OptimWrapper",
    "EmbeddingMonitorHook",
    "IterationSeedHook",
    "KNNHook",
    "LARSConstructor",
    "LevelAccuracy",
    "LoadReportHook",
    "MultiTensorLARS",
    "NonFiniteLossHook",
    "OptimStepParamSchedulerHook",
    "TargetUpdateHook",
    "UnreadableImageHook",
]
