"""The target network: a moving average of the online network."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from .neck import embed_canvases


class TargetNetwork(nn.Module):
    """Exponential moving average of backbone and neck (paper, section 3).

    It has no gradient and stays in train mode. Its BN layers use the statistics of
    their own batch, and their buffers are not averaged. It has no ``init_weights``, so
    initializing the model does not change it; :meth:`reset` copies the online weights.

    Args:
        backbone, neck: the online modules to copy.
        base_momentum: weight of the new value at the first update, as in MMEngine
            (paper: 0.99 kept). It falls to 0 along half a cosine.

    Raises:
        InputError: when ``base_momentum`` is not a number from 0 to 1.
    """

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, base_momentum: float = 0.01
    ) -> None:
        super().__init__()
        if not isinstance(base_momentum, (int, float)) or not 0 <= base_momentum <= 1:
            raise InputError(
                f"base_momentum={base_momentum!r}: give the weight of the new value, "
                "0 to 1 (0.01 keeps 0.99)"
            )
        self.backbone = copy.deepcopy(backbone)
        self.neck = copy.deepcopy(neck)
        self.base_momentum = base_momentum
        # Optimizer steps so far. As a buffer it is saved, so a resumed run continues.
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        # A copy on the host, since reading the buffer would wait for the device. None
        # after loading, until the buffer is read once.
        self._steps: int | None = 0
        self.register_load_state_dict_post_hook(_forget_steps)
        self.requires_grad_(False)

    def reset(self, backbone: nn.Module, neck: nn.Module) -> None:
        """Copy the online weights and restart the schedule."""
        self.backbone.load_state_dict(backbone.state_dict())
        self.neck.load_state_dict(neck.state_dict())
        self.restart()

    def restart(self) -> None:
        """Restart the schedule and keep the weights."""
        self.step.zero_()
        self._steps = 0

    def momentum(self, step: int, total_steps: int) -> float:
        """Weight of the new value at optimizer step k of K.

        The paper keeps m = 1 - (1 - 0.99) (cos(pi k / K) + 1) / 2; this is 1 - m.
        """
        return self.base_momentum * (math.cos(math.pi * step / total_steps) + 1) / 2

    @torch.no_grad()
    def update(self, backbone: nn.Module, neck: nn.Module, total_steps: int) -> None:
        """Move towards the online weights, once after each optimizer step.

        Args:
            backbone, neck: the online modules.
            total_steps: K, optimizer steps of the whole run.
        """
        if self._steps is None:
            self._steps = int(self.step)
        mine = [*self.backbone.parameters(), *self.neck.parameters()]
        online = [*backbone.parameters(), *neck.parameters()]
        torch._foreach_lerp_(mine, online, self.momentum(self._steps, total_steps))
        self._steps += 1
        self.step += 1

    @torch.no_grad()
    def forward(self, canvases: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Embed the tiles of some levels' canvases, level 0 first.

        Args:
            canvases: for each level (n_l, 3, S_l, S_l).

        Returns:
            For each level (N_l, D).
        """
        return embed_canvases(self.backbone, self.neck, canvases)


def _forget_steps(target: TargetNetwork, incompatible_keys: object) -> None:
    target._steps = None
