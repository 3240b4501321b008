"""From pre-training weights to a detector's, or another library's.

The online network already bears MMDetection's names; what remains is to put each
weight where the destination keeps it, and to prove that everything arrives.
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
