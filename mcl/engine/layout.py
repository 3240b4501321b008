"""How weights lie in memory."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from .steps import unwrap


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keep convolutions' weights, and with them the maps, channels last.

    The figures are the same but for rounding. In bfloat16 on a CPU, convolutions are
    slow without it. For models that have no such option, detectors of MMDetection
    among them; MCL's models have ``channels_last``.
    """

    def before_train(self, runner: Runner) -> None:
        unwrap(runner.model).to(memory_format=torch.channels_last)

    before_val = before_test = before_train
