"""Share out time, or counted work, to the parts of a step."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from mmengine.optim import OptimWrapper
from torch import nn


class Meter:
    """Share out a quantity that only grows, such as time, to named parts.

    What a part within a part takes is not the outer one's.

    Args:
        read: the quantity so far.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.parts: dict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._last = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def _book(self) -> None:
        now = self.read()
        if self._open:
            self.parts[self._open[-1]] += now - self._last
        self._last = now

    def wrap(self, name: str, function: Callable) -> Callable:
        """The function, what it takes booked as ``name``."""

        def metered(*args, **kwargs) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        return metered


@contextmanager
def metered(meter: Meter, model: nn.Module, wrapper: OptimWrapper) -> Iterator[None]:
    """Book gradients, optimizer and target's update apart from what is around them.

    Gradients are caught where torch computes them, so that a model may ask for some
    before its forward pass is at its end.
    """
    found = [
        (torch.autograd, "backward", "backward"),
        (torch.autograd, "grad", "backward"),
        (wrapper, "step", "optimizer"),
        (wrapper, "zero_grad", "optimizer"),
    ]
    if hasattr(model, "update_target"):
        found.append((model, "update_target", "target_update"))
    with ExitStack() as stack:
        for owner, name, part in found:
            function = meter.wrap(part, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, function))
        yield
