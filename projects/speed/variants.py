"""A config with some options, as one of the things that are compared."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from mcl.config import adapt_to_cpu, merge_options, read_config, settle_loaders
from mcl.errors import InputError
from mcl.models.parts import share_model

# Mixed precision, and the optimizer wrapper for it.
AMP = dict(
    none=dict(type="OptimWrapper"),
    bfloat16=dict(type="mmpretrain.BFloat16OptimWrapper"),
    float16=dict(
        type="AmpOptimWrapper", dtype="float16", loss_scale=dict(init_scale=2.0**14)
    ),
)


@dataclass(frozen=True)
class Variant:
    """A config with overrides.

    Attributes:
        name: in the tables.
        config: its file.
        device: ``cpu`` or ``cuda``.
        options: overrides, as ``--cfg-options`` gives them.
        amp: mixed precision: ``none``, ``bfloat16`` or ``float16``; None: the config's.
        compile: whether backbone and neck are compiled.
    """

    name: str
    config: str
    device: str = "cpu"
    options: dict = field(default_factory=dict)
    amp: str | None = None
    compile: bool = False

    def load(self) -> Config:
        """The config for this device and precision.

        Raises:
            InputError: when it is no pre-training config, or an option cannot be.
        """
        cfg = read_config(self.config)
        merge_options(cfg, self.options)
        share_model(cfg.get("model") or {})  # refuses other than pre-training
        settle_loaders(cfg)
        if self.device == "cpu":
            adapt_to_cpu(cfg)
        if self.amp == "float16" and self.device == "cpu":
            raise InputError("amp=float16: a CPU trains in bfloat16 or none")
        if self.amp:
            for key in ("dtype", "loss_scale"):
                cfg.optim_wrapper.pop(key, None)
            cfg.optim_wrapper.update(AMP[self.amp])
        init_default_scope(cfg.get("default_scope", "mmpretrain"))
        return cfg

    def build_model(self, cfg: Config) -> nn.Module:
        """The model of :meth:`load`, on the CPU, in training mode.

        Raises:
            InputError: for an option that the model does not have.
        """
        try:
            return MODELS.build(cfg.model).train()
        except (TypeError, KeyError) as error:
            raise InputError(f"variant {self.name}: {error}") from error


def precision(cfg: Config) -> str:
    """Dtype that the config's optimizer wrapper computes convolutions in."""
    kind = str(cfg.optim_wrapper.get("type"))
    if kind.endswith("BFloat16OptimWrapper"):
        return "bfloat16"
    if kind.endswith("AmpOptimWrapper"):
        return cfg.optim_wrapper.get("dtype") or "float16"
    return "float32"


def random_batch(model: nn.Module, batch: int, device: str) -> dict:
    """What the model's preprocessor makes of ``batch`` images of noise."""
    preprocessor = model.data_preprocessor
    montage, views = preprocessor.montage, preprocessor.num_views
    sides = [montage.size // ratio for ratio in montage.ratios] * views
    crops = [
        torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, device=device)
        for side in sides
    ]
    samples = None
    classes = getattr(model.head, "num_classes", None)
    if classes:
        samples = [DataSample().set_gt_label(i % classes) for i in range(batch)]
    return preprocessor(dict(inputs=crops, data_samples=samples), training=True)


def make_variants(args: argparse.Namespace) -> list[Variant]:
    """The variants of a command line, the baseline first.

    Without ``--variant`` it is the config itself. A variant is a name and
    ``key=value`` options. ``amp=``, ``compile=`` and ``config=`` are not of the config,
    but say how or what to run.

    Raises:
        InputError: for a variant without a name, two of one name, or a value of
            ``amp`` or ``compile`` that does not exist.
    """
    options = dict(args.cfg_options or {})
    base = Variant("config", args.config, args.device, options, args.amp)
    variants = [_make_variant(base, words) for words in args.variant or []]
    names = [v.name for v in variants]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--variant {name}: it is given twice; name them apart")
    return variants or [base]


def _make_variant(base: Variant, words: Sequence[str]) -> Variant:
    name, *rest = words
    if "=" in name:
        raise InputError(
            f"--variant {name}: a name comes first, as in --variant full {name}"
        )
    for word in rest:
        if "=" not in word:
            raise InputError(f"--variant {name}: {word}: give it as key=value")
    options = _parse_options(rest) if rest else {}
    amp = str(options.pop("amp")).lower() if "amp" in options else base.amp
    compiled = options.pop("compile", False)
    if amp not in (None, *AMP):
        raise InputError(f"--variant {name}: amp={amp}: choose one of {list(AMP)}")
    if not isinstance(compiled, bool):
        raise InputError(f"--variant {name}: compile={compiled}: give True or False")
    config = str(options.pop("config", base.config))
    options = {**base.options, **options}
    return replace(
        base, name=name, config=config, options=options, amp=amp, compile=compiled
    )


def _parse_options(words: Sequence[str]) -> dict:
    """``key=value`` words, read as the hosts' ``--cfg-options``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="+", action=DictAction)
    return parser.parse_args(["--options", *words]).options
