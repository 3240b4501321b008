"""Export of pre-trained weights to detectors and to other libraries.

The online network already has MMDetection's names. An export moves each weight to its
name in the destination, and checks that every weight fits there.
"""

from .checkpoint import check_out, load_weights, read_checkpoint, write_tensors
from .destination import Destination, Export, build_unfilled, export
from .selection import NETWORKS, PARTS, take_network, take_parts
from .to_detectron2 import ToDetectron2
from .to_mmdet import ToMMDetection, find_doubts
from .to_mmpretrain import ToMMPretrain
from .to_timm import ToTimm
from .to_torchvision import ToTorchvision

__all__ = [
    "NETWORKS",
    "PARTS",
    "Destination",
    "Export",
    "ToDetectron2",
    "ToMMDetection",
    "ToMMPretrain",
    "ToTimm",
    "ToTorchvision",
    "build_unfilled",
    "check_out",
    "export",
    "find_doubts",
    "load_weights",
    "read_checkpoint",
    "take_network",
    "take_parts",
    "write_tensors",
]
