"""Comparison of a checkpoint with a model, part by part."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .architecture import Architecture

BACKBONE = "backbone"
NECK = "neck"
SHARED_CONVS = "roi_head.bbox_head.shared_convs"
# Parts that pre-training fills. A model takes each completely or not at all.
PRETRAINED = (BACKBONE, NECK, SHARED_CONVS)
# Prefixes of pre-training's weights that no detector has.
PRETRAINING_ONLY = ("neck.shared_convs.", "neck.projector.", "head.", "target.")
# A cascade has several box heads; a C4 detector keeps layer4 in its RoI head.
HEAD_CONVS = re.compile(r"roi_head\.bbox_head(\.\d+)?\.shared_convs\.")
PYRAMID = re.compile(r"neck\.(lateral|fpn)_convs\.")
HEAD_LAYER4 = re.compile(r"roi_head\.shared_head(\.\d+)?\.(?=layer4\.)")


@dataclass
class Part:
    """Names of one part: in both, in the model only, in the file only, other shape."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def problem(self) -> str | None:
        """The first problem of a part that must fit, or None."""
        for what in ("mismatched", "unexpected", "missing"):
            names = getattr(self, what)
            if names:
                return f"{len(names)} weights {what}, such as {names[0]}"
        return None


@dataclass
class LoadReport:
    """Comparison of a checkpoint's weights with a model's."""

    parts: dict[str, Part]
    causes: list[str] = field(default_factory=list)

    @classmethod
    def compare(
        cls,
        weights: Mapping[str, Tensor],
        model: Mapping[str, Tensor],
        part_of: Callable[[str], str] | None = None,
    ) -> "LoadReport":
        """Compare by name and shape; BN's batch counters do not matter.

        Args:
            weights: the file's.
            model: state dict of the model that should load them.
            part_of: function from a name to its part; by default of a model of
                MMDetection or of pre-training.
        """
        part_of = part_of or detector_parts(model)
        parts: dict[str, Part] = {}
        # The runner also removes the prefix of a distributed wrapper.
        weights = {k.removeprefix("module."): w for k, w in weights.items()}
        for name in sorted(set(weights) | set(model)):
            if name.endswith("num_batches_tracked"):
                continue
            part = parts.setdefault(part_of(name), Part())
            if name not in weights:
                part.missing.append(name)
            elif name not in model:
                part.unexpected.append(name)
            elif weights[name].shape != model[name].shape:
                shapes = f"{tuple(weights[name].shape)} for {tuple(model[name].shape)}"
                part.mismatched.append(f"{name} {shapes}")
            else:
                part.loaded.append(name)
        return cls(parts, find_causes(weights, model))

    def problems(self, promised: Iterable[str] = (BACKBONE,)) -> list[str]:
        """Reasons not to use the checkpoint, an empty list if there are none.

        A pre-trained part that both have must fit completely. A promised part must
        exist.
        """
        problems = []
        for name in PRETRAINED:
            part = self.parts.get(name, Part())
            brought = part.loaded or part.mismatched or part.unexpected
            wanted = part.loaded or part.mismatched or part.missing
            if name in promised and not wanted:
                problems.append(f"{name}: the model has no such part")
            elif name in promised and not part.loaded:
                problems.append(f"{name}: no weight of it fits")
            elif brought and wanted and part.problem():
                problems.append(f"{name}: {part.problem()}")
        return problems + self.causes if problems else []

    def gaps(self) -> list[str]:
        """Weights of the model that the checkpoint does not fill, part by part."""
        gaps = []
        for name, part in self.parts.items():
            if names := part.mismatched + part.missing:
                gaps.append(f"{name}: {len(names)} weights not filled, as {names[0]}")
        return gaps + self.causes if gaps else []

    def in_full(self, limit: int | None = 3) -> str:
        """The table, and up to ``limit`` names of each kind of problem (None: all)."""
        lines = [str(self)]
        for name, part in self.parts.items():
            for kind in ("missing", "unexpected", "mismatched"):
                if found := getattr(part, kind):
                    more = len(found) - len(found[:limit])
                    rest = f", and {more} more" if more else ""
                    lines.append(f"  {name}, {kind}: {', '.join(found[:limit])}{rest}")
        return "\n".join(lines)

    def __str__(self) -> str:
        rows = [f"{'part':35} loaded missing unexpected mismatched"]
        for name, p in self.parts.items():
            counts = (p.loaded, p.missing, p.unexpected, p.mismatched)
            loaded, missing, unexpected, mismatched = map(len, counts)
            rows.append(f"{name:35}{loaded:7}{missing:8}{unexpected:11}{mismatched:11}")
        return "\n".join(rows)


def detector_parts(model: Mapping[str, Tensor]) -> Callable[[str], str]:
    """Function from a name of an MMDetection or pre-training model to its part."""
    laterals = _laterals(model)

    def part_of(name: str) -> str:
        if HEAD_CONVS.match(name):
            return SHARED_CONVS
        if HEAD_LAYER4.match(name):
            return BACKBONE
        for part in PRETRAINING_ONLY:
            if name.startswith(part):
                return part.rstrip(".")
        output = re.match(r"neck\.fpn_convs\.(\d+)\.", name)
        # Convs of some detectors for maps coarser than the backbone's.
        if output and laterals and int(output[1]) >= laterals:
            return "neck.extra_convs"
        if name.startswith("neck.") and not re.match(PYRAMID, name):
            return "neck.other_layers"
        depth = 2 if name.startswith("roi_head.") else 1
        return ".".join(name.split(".")[:depth])

    return part_of


def find_causes(
    weights: Mapping[str, Tensor], model: Mapping[str, Tensor]
) -> list[str]:
    """The usual reasons why weights do not fit a model, as sentences."""
    causes = []
    ours, wanted = (Architecture.of(_backbone(w)) for w in (weights, model))
    if ours and wanted and str(ours) != str(wanted):
        causes.append(f"the file's backbone is {ours}, the model's {wanted}")
    conv, wanted_conv = (
        w.get("neck.fpn_convs.0.conv.weight") for w in (weights, model)
    )
    if conv is not None and wanted_conv is not None:
        if len(conv) != len(wanted_conv):
            causes.append(
                f"the file's FPN has {len(conv)} channels, the model's "
                f"{len(wanted_conv)}"
            )
        norm = "neck.fpn_convs.0.bn.weight"
        if (norm in weights) != (norm in model):
            causes.append("one FPN has norm layers (neck.norm_cfg), the other has none")
    maps, taken = _laterals(weights), _laterals(model)
    if 0 < taken < maps:
        causes.append(
            f"the model's pyramid takes {taken} maps of the backbone, the file's "
            f"{maps}: export for this detector (such as --detector retinanet)"
        )
    has_layer4 = "backbone.layer4.0.conv1.weight" in weights
    if has_layer4 and any(map(HEAD_LAYER4.match, model)):
        causes.append("the model has layer4 in its RoI head (--detector c4)")
    heads, wanted_heads = _heads(weights), _heads(model)
    if heads and wanted_heads and heads != wanted_heads:
        causes.append(
            f"the model has {len(wanted_heads)} box heads with shared convs, the file "
            f"{len(heads)} (--detector cascade or mask-rcnn)"
        )
    return causes


def _backbone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{BACKBONE}."
    return {
        k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)
    }


def _laterals(weights: Mapping[str, Tensor]) -> int:
    """Number of maps that the FPN takes from the backbone."""
    return len(
        {k.split(".")[2] for k in weights if k.startswith("neck.lateral_convs.")}
    )


def _heads(weights: Mapping[str, Tensor]) -> set[str]:
    """Prefixes of the box heads with shared convs."""
    return {m.group() for k in weights if (m := HEAD_CONVS.match(k))}
