from .compiling import CompileHook
from .guards import (
    ClassesHook,
    LoadReportHook,
    NonFiniteLossHook,
    UnreadableImageHook,
)
from .knn import KNNHook
from .lars import MultiTensorLARS
from .layout import ChannelsLastHook
from .logs import DeferredInfoHook
from .metrics import LevelAccuracy
from .monitors import EmbeddingMonitorHook
from .optim import BFloat16OptimWrapper, LARSConstructor
from .steps import IterationSeedHook, OptimStepParamSchedulerHook, TargetUpdateHook

__all__ = [
    "BFloat16OptimWrapper",
    "ChannelsLastHook",
    "ClassesHook",
    "CompileHook",
    "DeferredInfoHook",
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
