"""What all destinations share: where a weight goes, and the proof that it fits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import InputError
from .load_report import PRETRAINED, LoadReport
from .selection import PARTS, find_unread, part_of, take_parts


class Destination(Protocol):
    """A library's model that pre-trained weights are for.

    Attributes:
        model: its state dict, for names and shapes (of meta tensors mostly).
    """

    model: Mapping[str, Tensor]

    def part_of(self, name: str) -> str:
        """The part that one of the model's names belongs to."""
        ...

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """One of our weights as the model wants it, under its name there.

        Several of them where it fills several layers; none where it has no place.
        """
        ...

    def write(self, weights: dict[str, Tensor], out: str) -> None:
        """Write the file that the library reads."""
        ...

    def usage(self, out: str) -> str:
        """How to load that file, to print."""
        ...


def build_unfilled(build: Callable[[], nn.Module]) -> nn.Module:
    """The module that ``build`` makes, without memory where that can be done."""
    try:
        with torch.device("meta"):
            return build()
    except RuntimeError as error:
        # OpenMMLab's Swin and ConvNeXt read numbers off a tensor in between.
        if "meta" not in str(error):
            raise
        return build()


@dataclass
class Export:
    """Weights under a destination's names, and their comparison with its model.

    Attributes:
        left_behind: our names of weights that do not go.
        unread: our names of norm layers that go as they began.
    """

    weights: dict[str, Tensor]
    report: LoadReport
    left_behind: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def export(
    network: Mapping[str, Tensor],
    destination: Destination,
    part: str | None = None,
    allow_unread: bool = False,
) -> Export:
    """Rename ``network`` for ``destination``; refuse what would not arrive whole.

    Args:
        network: of :func:`~mcl.export.selection.take_network`.
        destination: where it is to go.
        part: what is promised, backbone, trunk or detector; by default whatever
            the destination's model has.
        allow_unread: let layers go that pre-training read nothing from, see
            :func:`~mcl.export.selection.find_unread`.

    Raises:
        InputError: when a promised part would not be filled wholly, or with weights
            that were not trained.
    """
    wanted = {destination.part_of(name) for name in destination.model}
    parts = PARTS[part] if part else tuple(p for p in PRETRAINED if p in wanted)
    weights, sent, left_behind = {}, {}, []
    for name, tensor in take_parts(network, parts).items():
        placed = destination.place(name, tensor)
        weights.update(placed)
        if placed:
            sent[name] = tensor
        else:
            left_behind.append(name)
    unread = find_unread(sent, allow_unread)
    report = LoadReport.compare(weights, destination.model, destination.part_of)
    problems = report.problems(promised=parts)
    if problems:
        raise InputError(
            f"the model does not take these weights: {'; '.join(problems)}. "
            f"{_advice(report, parts)}Nothing is written\n{report.in_full()}"
        )
    left_behind += [n for n in network if part_of(n) not in parts]
    return Export(weights, report, left_behind, unread)


def _advice(report: LoadReport, parts: tuple[str, ...]) -> str:
    """What to try, where the report found no cause."""
    if report.causes or len(parts) == 1:
        return ""
    return (
        "The FPN and the box head's four shared convs need norm layers, as the "
        "benchmark configs have them; a smaller --part asks for less. "
    )
