"""How the detector's weights lie in memory."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Keep convolutions' weights, and with them the maps, channels last.

    In bfloat16 on a CPU, convolutions are slow without it.
    """

    def before_train(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)

    before_val = before_test = before_train
