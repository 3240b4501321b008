"""Peak memory of a step, and where it goes."""

import gc
import resource
import sys
import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .fresh import run_fresh
from .report import Column, Report
from .step import Step
from .variants import Variant

MIB = 2**20
# Steps whose highest peak counts: from the second on the optimizer has its state.
STEPS = 2


def resident(peak: bool) -> int:
    """Bytes of this process in memory, now or at most so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        field = "VmHWM:" if peak else "VmRSS:"
        lines = status.read_text().splitlines()
        return 1024 * int(next(v for v in lines if v.startswith(field)).split()[1])
    # macOS counts in bytes, and tells the peak only.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def in_use(device: str, peak: bool) -> int:
    """Bytes in use on the device, now or at most so far."""
    if device == "cpu":
        return resident(peak)
    if peak:
        return torch.cuda.max_memory_allocated()
    return torch.cuda.memory_allocated()


class SavedTensors:
    """Bytes that autograd keeps for the backward pass, each storage once.

    Args:
        known: tensors that are there anyway, which do not count.

    Attributes:
        now: bytes kept at present.
        most: the largest ``now`` so far.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        self.known = {t.untyped_storage().data_ptr() for t in known}
        self.users: dict[int, int] = defaultdict(int)
        self.now = self.most = 0

    def watch(self) -> torch.autograd.graph.saved_tensors_hooks:
        """A context in which graphs are looked at."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def _pack(self, tensor: Tensor) -> "Kept":
        kept = Kept(tensor)
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if place not in self.known:
            self.users[place] += 1
            if self.users[place] == 1:
                self.now += size
                self.most = max(self.most, self.now)
            weakref.finalize(kept, self._release, place, size).atexit = False
        return kept

    def _release(self, place: int, size: int) -> None:
        self.users[place] -= 1
        if not self.users[place]:
            self.now -= size


class Kept:
    """A saved tensor; detached, since its own graph would keep it for ever."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()


def _unpack(kept: Kept) -> Tensor:
    return kept.tensor


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each once."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def tensors_of(module: nn.Module | None) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()] if module is not None else []


def footprint(variant: Variant, batch: int, distributed: bool = False) -> dict:
    """Peak of a step beyond what the process had before, and the parts of it.

    To be called in a fresh process, since what was freed before may be used again.

    Returns:
        Bytes: ``peak``; ``weights`` of the online network, its ``target``,
        ``optimizer_state``, ``gradients``, ``inputs``; ``activations``, what autograd
        keeps at most; ``other``, the rest of the peak. Seconds of a step: ``seconds``.
    """
    before = in_use(variant.device, peak=False)
    step = Step(variant, batch, distributed)
    step.warm_up()
    seconds = min(step.seconds()["total"] for _ in range(STEPS))
    peak = in_use(variant.device, peak=True) - before
    found = _parts(step)
    # Gradients and activations are not all there at one time.
    other = peak - sum(found.values())
    return dict(found, other=other, peak=peak, seconds=seconds)


def _parts(step: Step) -> dict[str, int]:
    model = step.model
    target = tensors_of(getattr(model, "target", None))
    places = {id(t) for t in target}
    online = [t for t in tensors_of(model) if id(t) not in places]
    inputs = [t for view in step.data["inputs"] for part in view for t in part]
    state = [
        value
        for found in step.optim_wrapper.optimizer.state.values()
        for value in found.values()
        if isinstance(value, Tensor)
    ]
    trained = [p for p in model.parameters() if p.requires_grad]
    saved = SavedTensors([*target, *online, *inputs])
    gc.collect()
    with step.ready(), saved.watch():
        step.train()
    return dict(
        weights=size_of(online),
        target=size_of(target),
        optimizer_state=size_of(state),
        gradients=sum(p.numel() * p.element_size() for p in trained),
        inputs=size_of(inputs),
        activations=saved.most,
    )


FIELDS = (
    "peak",
    "weights",
    "target",
    "optimizer_state",
    "gradients",
    "inputs",
    "activations",
    "other",
)


def compare_memory(variants: Sequence[Variant], batch: int) -> Report:
    """Peak memory of the variants' steps, each in a process of its own."""
    rows = []
    for variant in variants:
        found = run_fresh(footprint, variant, batch)
        row = dict(name=variant.name, **{f: found[f] / MIB for f in FIELDS})
        rows.append(dict(row, ratio=row["peak"] / (rows or [row])[0]["peak"]))
    columns = [
        Column("name", "variant"),
        *(Column(f, f.replace("_", " "), ".1f") for f in FIELDS),
        Column("ratio", "ratio", ".2f"),
    ]
    notes = [
        "MiB; peak: beyond what the process had before the model was built; "
        "activations: kept by autograd, at most; other: the rest of the peak "
        "(temporaries, libraries), below 0 where gradients come as activations go; "
        "ratio: peak by the baseline's"
    ]
    return Report(rows, columns, notes, dict(batch=batch))
