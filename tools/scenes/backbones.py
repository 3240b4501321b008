"""Backbones of pre-training configs, for tools that look at features."""

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import nn

from mcl.errors import InputError
from mcl.export import load_weights


def load_backbone(cfg: Config, checkpoint: str) -> nn.Module:
    """The backbone of a config, with its maps C2 to C5.

    ``checkpoint`` is one of the config's pre-training, or ``random``, which is the same
    each time.

    Raises:
        InputError: when the checkpoint cannot be read or is of another model.
    """
    cfg = cfg.copy()
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    if checkpoint != "random":
        try:
            model.load_state_dict(load_weights(checkpoint))
        except RuntimeError as error:
            raise InputError(
                f"{checkpoint}: its weights are not those of {cfg.filename}; give a "
                "checkpoint of that config's pre-training"
            ) from error
    return model.backbone
