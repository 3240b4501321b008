"""What of a checkpoint enters a model, part by part."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from .architecture import Architecture

BACKBONE = "backbone"
NECK = "neck"
SHARED_CONVS = "roi_head.bbox_head.shared_convs"
# Parts that pre-training fills: a model takes each whole or not at all.
PRETRAINED = (BACKBONE, NECK, SHARED_CONVS)
# Weights of pre-training that no detector has under these names.
PRETRAINING_ONLY = ("neck.shared_convs.", "neck.projector.", "head.", "target.")
# A cascade has several box heads; a C4 detector keeps layer4 in its RoI head.
HEAD_CONVS = re.compile(r"roi_head\.bbox_head(\.\d+)?\.shared_convs\.")
PYRAMID = re.compile(r"neck\.(lateral|fpn)_convs\.")
HEAD_LAYER4 = re.compile(r"roi_head\.shared_head(\.\d+)?\.(?=layer4\.)")


@dataclass
class Part:
    """Names of one part: in both and alike, in one only, of unlike shapes."""

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    def problem(self) -> str | None:
        """The first thing that is wrong with a part that must fit, or None."""
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
            weights: of the file.
            model: state dict of the model they are meant for.
            part_of: the part that a name belongs to; by default of a model of
                MMDetection or of pre-training.
        """
        part_of = part_of or detector_parts(model)
        parts: dict[str, Part] = {}
        # The runner takes the prefix of a distributed wrapper off, too.
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
        """Why the checkpoint must not be used; empty when it may.

        A pre-trained part that both have must fit wholly; a promised part must
        be there.
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
            names = part.mismatched + part.missing
            if names:
                gaps.append(f"{name}: {len(names)} weights not filled, as {names[0]}")
        return gaps + self.causes if gaps else []

    def in_full(self, limit: int | None = 3) -> str:
        """The table, and ``limit`` names of each kind that does not fit (None: all)."""
        lines = [str(self)]
        for name, part in self.parts.items():
            for kind in ("missing", "unexpected", "mismatched"):
                found = getattr(part, kind)
                if found:
                    shown = found[:limit]
                    more = len(found) - len(shown)
                    rest = f", and {more} more" if more else ""
                    lines.append(f"  {name}, {kind}: {', '.join(shown)}{rest}")
        return "\n".join(lines)

    def __str__(self) -> str:
        rows = ["part                                loaded missing unexpected unlike"]
        for name, p in self.parts.items():
            counts = (p.loaded, p.missing, p.unexpected, p.mismatched)
            loaded, missing, unexpected, unlike = map(len, counts)
            rows.append(f"{name:35}{loaded:7}{missing:8}{unexpected:11}{unlike:7}")
        return "\n".join(rows)


def detector_parts(model: Mapping[str, Tensor]) -> Callable[[str], str]:
    """The part that a name of an MMDetection or pre-training model belongs to."""
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
        # Maps above the backbone's, which some detectors compute by convs.
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
    """The usual reasons why weights and model do not match, in words."""
    causes = []
    theirs, wanted = (Architecture.describe(_backbone(w)) for w in (weights, model))
    if theirs and wanted and theirs != wanted:
        causes.append(f"the file's backbone is {theirs}, the model's {wanted}")
    width, wanted_width = (_fpn_width(w) for w in (weights, model))
    if width and wanted_width and width != wanted_width:
        causes.append(
            f"the file's FPN has {width} channels, the model's {wanted_width}"
        )
    has_norm, wants_norm = (_fpn_has_norm(w) for w in (weights, model))
    if width and wanted_width and has_norm != wants_norm:
        causes.append("one FPN has norm layers (neck.norm_cfg), the other has none")
    maps, taken = _laterals(weights), _laterals(model)
    if 0 < taken < maps:
        causes.append(
            f"the model's pyramid takes {taken} maps of the backbone, the file's "
            f"{maps}: export for this detector (such as --detector retinanet)"
        )
    if _any(HEAD_LAYER4, model) and "backbone.layer4.0.conv1.weight" in weights:
        causes.append("the model keeps layer4 in its RoI head (--detector c4)")
    if _heads(weights) and _heads(model) and _heads(weights) != _heads(model):
        causes.append(
            f"the model has {len(_heads(model))} box heads with shared convs, the file "
            f"{len(_heads(weights))} (--detector cascade or mask-rcnn)"
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


def _fpn_width(weights: Mapping[str, Tensor]) -> int | None:
    conv = weights.get("neck.fpn_convs.0.conv.weight")
    return None if conv is None else conv.shape[0]


def _fpn_has_norm(weights: Mapping[str, Tensor]) -> bool:
    return "neck.fpn_convs.0.bn.weight" in weights


def _heads(weights: Mapping[str, Tensor]) -> set[str]:
    return {m.group() for k in weights if (m := HEAD_CONVS.match(k))}


def _any(pattern: re.Pattern, weights: Mapping[str, Tensor]) -> bool:
    return any(pattern.match(name) for name in weights)
