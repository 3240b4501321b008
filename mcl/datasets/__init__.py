from .loading import LoadImageOrRaise
from .montage import Montage, View
from .replay import ReplayableDataset, ReplayableSampler, SampleKey
from .transforms import MultiLevelViews

__all__ = [
    "LoadImageOrRaise",
    "Montage",
    "MultiLevelViews",
    "ReplayableDataset",
    "ReplayableSampler",
    "SampleKey",
    "View",
]
