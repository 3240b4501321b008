from .acceleration import BFloat16OptimWrapper, CompileHook, DeferredInfoHook
from .guards import (
    ClassesHook,
    LoadReportHook,
    NonFiniteLossHook,
    UnreadableImageHook,
)
from .knn import KNNHook
from .lars import LARSConstructor, MultiTensorLARS
from .loop import MCLTrainLoop, OptimStepParamSchedulerHook
from .monitors import EmbeddingMonitorHook, LevelAccuracy
from .steps import IterationSeedHook, TargetUpdateHook

__all__ = [
    "BFloat16OptimWrapper",
    "ClassesHook",
    "CompileHook",
    "DeferredInfoHook",
    "EmbeddingMonitorHook",
    "IterationSeedHook",
    "KNNHook",
    "LARSConstructor",
    "LevelAccuracy",
    "LoadReportHook",
    "MCLTrainLoop",
    "MultiTensorLARS",
    "NonFiniteLossHook",
    "OptimStepParamSchedulerHook",
    "TargetUpdateHook",
    "UnreadableImageHook",
]
