from .loading import LoadImageOrRaise
from .montage import Montage, View
from .replay import ReplayableDataset, ReplayableSampler, SampleKey
from .sources import ArchiveImages, COCOImages
from .transforms import MultiLevelViews

__all__ = [
    "ArchiveImages",
    "COCOImages",
    "LoadImageOrRaise",
    "Montage",
    "MultiLevelViews",
    "ReplayableDataset",
    "ReplayableSampler",
    "SampleKey",
    "View",
]
