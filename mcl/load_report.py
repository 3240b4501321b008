"""What of a checkpoint enters a model, part by part."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

SHARED_CONVS = "roi_head.bbox_head.shared_convs"
# Parts that pre-training fills and a detector must take whole or not at all.
TRUNK = ("backbone", "neck", SHARED_CONVS)
# Weights of pre-training that no detector has under these names.
PRETRAINING_ONLY = ("neck.shared_convs.", "neck.projector.", "head.", "target.")


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

    @classmethod
    def compare(
        cls, weights: Mapping[str, Tensor], model: Mapping[str, Tensor]
    ) -> "LoadReport":
        """Compare by name and shape; BN's batch counters do not matter."""
        parts: dict[str, Part] = {}
        # The runner takes this prefix of a distributed wrapper off, too.
        weights = {k.removeprefix("module."): w for k, w in weights.items()}
        for name in sorted(set(weights) | set(model)):
            if name.endswith("num_batches_tracked"):
                continue
            part = parts.setdefault(_part_of(name), Part())
            if name not in weights:
                part.missing.append(name)
            elif name not in model:
                part.unexpected.append(name)
            elif weights[name].shape != model[name].shape:
                shapes = f"{tuple(weights[name].shape)} for {tuple(model[name].shape)}"
                part.mismatched.append(f"{name} {shapes}")
            else:
                part.loaded.append(name)
        return cls(parts)

    def problems(self, promised: Iterable[str] = ("backbone",)) -> list[str]:
        """Why the checkpoint must not be used; empty when it may.

        A part of the trunk that the file has must fit wholly; a promised part must
        be there.
        """
        problems = []
        for name in TRUNK:
            part = self.parts.get(name, Part())
            brought = part.loaded or part.mismatched or part.unexpected
            wanted = part.loaded or part.mismatched or part.missing
            if name in promised and not part.loaded:
                problems.append(f"{name}: no weight of it fits")
            elif brought and wanted and part.problem():
                problems.append(f"{name}: {part.problem()}")
        return problems

    def gaps(self) -> list[str]:
        """Weights of the model that the checkpoint does not fill, part by part."""
        gaps = []
        for name, part in self.parts.items():
            names = part.mismatched + part.missing
            if names:
                gaps.append(f"{name}: {len(names)} weights not filled, as {names[0]}")
        return gaps

    def __str__(self) -> str:
        rows = ["part                                loaded missing unexpected unlike"]
        for name, p in self.parts.items():
            counts = (p.loaded, p.missing, p.unexpected, p.mismatched)
            loaded, missing, unexpected, unlike = map(len, counts)
            rows.append(f"{name:35}{loaded:7}{missing:8}{unexpected:11}{unlike:7}")
        return "\n".join(rows)


def _part_of(name: str) -> str:
    """The row of the report that a weight belongs to."""
    for part in (SHARED_CONVS, *(p.rstrip(".") for p in PRETRAINING_ONLY)):
        if name.startswith(part + "."):
            return part
    depth = 2 if name.startswith("roi_head.") else 1
    return ".".join(name.split(".")[:depth])
