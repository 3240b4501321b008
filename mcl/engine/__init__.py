from .guards import LoadReportHook, NonFiniteLossHook, UnreadableImageHook
from .metrics import LevelAccuracy
from .optim import BFloat16OptimWrapper, LARSConstructor
from .steps import IterationSeedHook, OptimStepParamSchedulerHook, TargetUpdateHook

__all__ = [
    "BFloat16OptimWrapper",
    "IterationSeedHook",
    "LARSConstructor",
    "LevelAccuracy",
    "LoadReportHook",
    "NonFiniteLossHook",
    "OptimStepParamSchedulerHook",
    "TargetUpdateHook",
    "UnreadableImageHook",
]
