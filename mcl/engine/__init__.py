from .guards import LoadReportHook, NonFiniteLossHook, UnreadableImageHook
from .optim import BFloat16OptimWrapper, LARSConstructor
from .steps import IterationSeedHook, OptimStepParamSchedulerHook, TargetUpdateHook

__all__ = [
    "BFloat16OptimWrapper",
    "IterationSeedHook",
    "LARSConstructor",
    "LoadReportHook",
    "NonFiniteLossHook",
    "OptimStepParamSchedulerHook",
    "TargetUpdateHook",
    "UnreadableImageHook",
]
