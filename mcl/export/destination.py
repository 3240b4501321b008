"""Common parts of all destinations: names there, and the check that all weights fit."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import InputError
from .checkpoint import write_tensors
from .load_report import BACKBONE, PRETRAINED, LoadReport
from .selection import PARTS, find_unread, part_of, take_parts


class Destination:
    """A library's model that receives pre-trained weights.

    Attributes:
        model: its state dict, for names and shapes (mostly meta tensors).
    """

    model: Mapping[str, Tensor]

    def part_of(self, name: str) -> str:
        """The part that one of the model's names belongs to."""
        return BACKBONE

    def place(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """Convert one of our weights for the model.

        Returns:
            The tensor by its name in the model: once, for each of several layers, or
            empty when the model has no place for it.
        """
        raise NotImplementedError

    def write(self, weights: dict[str, Tensor], out: str) -> None:
        """Write the file that the library reads."""
        write_tensors(weights, out)

    def usage(self, out: str) -> str:
        """Lines to print that say how to load the file."""
        raise NotImplementedError


def rename(name: str, rules: Iterable[tuple[str, str | Callable]]) -> str:
    """Apply substitutions, pairs of pattern and replacement, in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def build_unfilled(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module, on the meta device if possible, which takes no memory."""
    try:
        with torch.device("meta"):
            return build()
    except RuntimeError as error:
        # OpenMMLab's Swin and ConvNeXt read values of a tensor.
        if "meta" not in str(error):
            raise
        return build()


@dataclass
class Export:
    """Weights under a destination's names, and their comparison with its model.

    Attributes:
        left_behind: our names of weights that are not exported.
        unread: our names of norm layers that are exported untrained.
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
    """Rename ``network`` for ``destination``, and refuse what does not fit completely.

    Args:
        network: weights from :func:`~mcl.export.selection.take_network`.
        destination: the model that receives them.
        part: backbone, trunk or detector; by default all parts that the
            destination's model has.
        allow_unread: also export layers that pre-training did not train, see
            :func:`~mcl.export.selection.find_unread`.

    Raises:
        InputError: when a requested part would not be filled completely, or with
            weights that were not trained.
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
        advice = (
            "The FPN and the box head's four shared convs need norm layers, as the "
            "benchmark configs have them; a smaller --part asks for less. "
        )
        if report.causes or len(parts) == 1:
            advice = ""
        raise InputError(
            f"the model does not take these weights: {'; '.join(problems)}. "
            f"{advice}Nothing is written\n{report.in_full()}"
        )
    left_behind += [n for n in network if part_of(n) not in parts]
    return Export(weights, report, left_behind, unread)
