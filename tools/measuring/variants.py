"""A config with some options, as one of the things that are compared."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn

from mcl.config import adapt_to_cpu, merge_options, read_config, settle_loaders
from mcl.errors import InputError

AMP = ("config", "none", "bfloat16", "float16")
# Of MCL's losses where a config has none.
LEVEL_WEIGHTS = (1 / 2, 1 / 4, 1 / 8, 1 / 8)


@dataclass(frozen=True)
class Variant:
    """A config with overrides.

    Attributes:
        name: in the tables.
        config: its file.
        device: ``cpu`` or ``cuda``.
        options: overrides, as ``--cfg-options`` gives them.
        amp: mixed precision: ``none``, ``bfloat16``, ``float16``, or what the
            ``config`` says.
        compile: whether backbone and neck are compiled.
        levels: how many of the config's levels to keep; None, all.
    """

    name: str
    config: str
    device: str = "cpu"
    options: dict = field(default_factory=dict)
    amp: str = "config"
    compile: bool = False
    levels: int | None = None

    def load(self) -> Config:
        """The config for this device, precision and number of levels.

        Raises:
            InputError: when it is no pre-training config, or an option cannot be.
        """
        cfg = read_config(self.config)
        self._check_options(cfg)
        if self.options:
            merge_options(cfg, self.options)
        model = cfg.get("model") or {}
        if "montage" not in (model.get("data_preprocessor") or {}):
            raise InputError(
                f"config {self.config}: its model.data_preprocessor has no montage; "
                "give a pre-training config"
            )
        if self.levels is not None:
            keep_levels(cfg, self.levels)
        settle_loaders(cfg)
        if self.device == "cpu":
            adapt_to_cpu(cfg)
        self._set_precision(cfg)
        init_default_scope(cfg.get("default_scope", "mmpretrain"))
        return cfg

    def _check_options(self, cfg: Config) -> None:
        """A slip of the pen would be measured as if it were the option."""
        for key in self.options:
            node, walked = cfg, []
            # What is below a `type` its class checks when it is built.
            for part in key.split("."):
                walked.append(part)
                if isinstance(node, dict) and "type" not in node and part not in node:
                    raise InputError(
                        f"variant {self.name}: {key}: the config has no "
                        f"{'.'.join(walked)}; check the spelling"
                    )
                node = node.get(part) if isinstance(node, dict) else None

    def _set_precision(self, cfg: Config) -> None:
        if self.amp == "float16" and self.device == "cpu":
            raise InputError("amp=float16: a CPU trains in bfloat16 or none")
        if self.amp == "config":
            return
        wrapper = cfg.optim_wrapper
        for key in ("dtype", "loss_scale"):
            wrapper.pop(key, None)
        if self.amp == "none":
            wrapper.type = "OptimWrapper"
        elif self.amp == "bfloat16":
            wrapper.type = "mmpretrain.BFloat16OptimWrapper"
        else:
            wrapper.update(
                type="AmpOptimWrapper",
                dtype="float16",
                loss_scale=dict(init_scale=2.0**14),
            )

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


def keep_levels(cfg: Config, levels: int) -> None:
    """Keep the first levels of a pre-training config's model and crops.

    Raises:
        InputError: when it has fewer.
    """
    montage, head = cfg.model.data_preprocessor.montage, cfg.model.head
    ratios = tuple(montage.get("ratios", (1, 2, 4, 8)))
    if not 1 <= levels <= len(ratios):
        raise InputError(f"levels={levels}: the config has {len(ratios)} levels")
    for part in (montage, cfg.model.neck, head):
        part.ratios = ratios[:levels]
    if montage.get("canvases"):
        montage.canvases = montage.canvases[:levels]
    weighted = head
    if cfg.model.type == "MCL":
        head.setdefault("loss", ConfigDict(type="MultiLevelContrastiveLoss"))
        weighted = head.loss
    weighted.level_weights = tuple(
        weighted.get("level_weights", LEVEL_WEIGHTS)[:levels]
    )


def parse_options(words: Sequence[str]) -> dict:
    """``key=value`` words, read as the hosts' ``--cfg-options``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--options", nargs="+", action=DictAction)
    return parser.parse_args(["--options", *words]).options


def make_variants(args: argparse.Namespace) -> list[Variant]:
    """The variants of a command line, the baseline first.

    Without ``--variant`` it is the config itself. A variant is a name and
    ``key=value`` options; ``amp=``, ``compile=`` and ``config=`` are not of the
    config, but say how or what to run.

    Raises:
        InputError: for a variant without a name, two of one name, or a value of
            ``amp`` or ``compile`` that does not exist.
    """
    base = Variant(
        "config",
        args.config,
        args.device,
        dict(args.cfg_options or {}),
        getattr(args, "amp", "config"),
        getattr(args, "compile", False),
    )
    variants = [_variant(base, words) for words in getattr(args, "variant", None) or []]
    names = [v.name for v in variants]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--variant {name}: it is given twice; name them apart")
    return variants or [base]


def _variant(base: Variant, words: Sequence[str]) -> Variant:
    name, *rest = words
    if "=" in name:
        raise InputError(
            f"--variant {name}: a name comes first, as in --variant full {name}"
        )
    stray = [word for word in rest if "=" not in word]
    if stray:
        raise InputError(f"--variant {name}: {stray[0]} is no key=value")
    options = parse_options(rest) if rest else {}
    amp = str(options.pop("amp", base.amp)).lower()
    compiled = options.pop("compile", base.compile)
    if amp not in AMP:
        raise InputError(f"--variant {name}: amp={amp}: choose one of {AMP}")
    if not isinstance(compiled, bool):
        raise InputError(f"--variant {name}: compile={compiled}: True or False")
    config = str(options.pop("config", base.config))
    return replace(
        base,
        name=name,
        config=config,
        options={**base.options, **options},
        amp=amp,
        compile=compiled,
    )


def check_device(device: str) -> None:
    """Say so where there is no such device.

    Raises:
        InputError: for ``cuda`` on a machine without.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; take --device cpu")
