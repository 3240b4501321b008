"""MMDetection: the weights bear its names already, but for where they stand."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from ..load_report import HEAD_CONVS, HEAD_LAYER4, detector_parts
from .checkpoint import write_tensors


class ToMMDetection:
    """Into any detector that MMDetection builds.

    An FPN that starts at a later map (RetinaNet: P3) takes the convs from there on;
    a detector with several box heads (Cascade) has each filled; layer4 goes to the
    RoI head where the detector keeps it there (C4).

    Args:
        detector: the built model; its weights may be on the meta device.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.model: Mapping[str, Tensor] = detector.state_dict()
        self.part_of = detector_parts(self.model)
        self.start_level = getattr(getattr(detector, "neck", None), "start_level", 0)
        self.heads = sorted({m.group() for m in map(HEAD_CONVS.match, self.model) if m})
        found = next(filter(None, map(HEAD_LAYER4.match, self.model)), None)
        self.layer4 = found.group() if found else "backbone."

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """The weight in the detector, as :class:`~mcl.export.Destination` has it."""
        if name.startswith("backbone.layer4."):
            return {self.layer4 + name.removeprefix("backbone."): tensor}
        if name.startswith("neck.shared_convs."):
            rest = name.removeprefix("neck.shared_convs.")
            return {head + rest: tensor for head in self.heads}
        level = re.match(r"(neck\.(?:lateral|fpn)_convs\.)(\d+)", name)
        if level is None:
            return {name: tensor}
        index = int(level[2]) - self.start_level
        return {f"{level[1]}{index}{name[level.end() :]}": tensor} if index >= 0 else {}

    def write(self, weights: dict[str, Tensor], out: str) -> None:
        write_tensors(dict(state_dict=weights), out)

    def usage(self, out: str) -> str:
        return f'load_from = "{out}"  # in the detector\'s config'
