"""Peak memory of a step, and where it goes."""

import gc
import multiprocessing
import re
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from .report import Report
from .step import Step
from .variants import Variant

MIB = 2**20
# Steps whose highest peak counts: from the second on the optimizer has its state.
STEPS = 2


def in_use(device: str, peak: bool) -> int:
    """Bytes of this process on the device, now or at most so far."""
    if device == "cuda":
        cuda = torch.cuda
        return cuda.max_memory_allocated() if peak else cuda.memory_allocated()
    status = Path("/proc/self/status").read_text()
    field = "VmHWM" if peak else "VmRSS"
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", status)[1])


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
        self.users: Counter[int] = Counter()
        self.now = self.most = 0

    def watch(self) -> saved_tensors_hooks:
        """A context in which graphs are looked at."""
        return saved_tensors_hooks(self._pack, lambda kept: kept())

    def _pack(self, tensor: Tensor) -> Callable[[], Tensor]:
        saved = tensor.detach()  # its own graph would keep it for ever

        def kept() -> Tensor:
            return saved

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


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def tensors_of(module: nn.Module | None) -> list[Tensor]:
    """Weights and buffers."""
    return [*module.parameters(), *module.buffers()] if module is not None else []


def measure(variant: Variant, batch: int, processes: int = 0) -> list[dict]:
    """:func:`footprint` in new processes, whose memory nothing else has used.

    Args:
        variant, batch: of each process.
        processes: number of them that form a group; 0: one alone, without a group. On
            a CPU they share this process' threads; on CUDA each has a device.
    """
    number, context = processes or 1, multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(number, context) as pool,
    ):
        store = f"file://{folder}/store" if processes else None
        work = partial(_measure, variant, batch, number, store)
        return list(pool.map(work, range(number)))


def _measure(
    variant: Variant, batch: int, number: int, store: str | None, rank: int
) -> dict:
    torch.set_num_threads(max(1, torch.get_num_threads() // number))
    if store is None:
        return footprint(variant, batch)
    if variant.device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if variant.device == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, init_method=store, world_size=number, rank=rank
    )
    try:
        return footprint(variant, batch, distributed=True)
    finally:
        torch.distributed.destroy_process_group()


def footprint(variant: Variant, batch: int, distributed: bool = False) -> dict:
    """Peak of a step beyond what the process had before, and the parts of it.

    Returns:
        Bytes: ``peak``; ``weights`` of the online network, its ``target``,
        ``optimizer_state``, ``gradients``, ``inputs``; ``activations``, what autograd
        keeps at most; ``other``, the rest of the peak. Seconds of a step: ``seconds``.
    """
    before = in_use(variant.device, peak=False)
    step = Step(variant, batch, distributed)
    step.warm_up()
    seconds = min(sum(step.run().values()) for _ in range(STEPS))
    peak = in_use(variant.device, peak=True) - before
    parts = _parts(step)
    # Gradients and activations are not all there at one time.
    other = peak - sum(parts.values())
    return dict(parts, other=other, peak=peak, seconds=seconds)


def _parts(step: Step) -> dict[str, int]:
    model = step.model
    target = tensors_of(getattr(model, "target", None))
    averaged = set(map(id, target))
    online = [t for t in tensors_of(model) if id(t) not in averaged]
    inputs = [t for view in step.data["inputs"] for part in view for t in part]
    states = step.optim_wrapper.optimizer.state.values()
    state = [v for s in states for v in s.values() if isinstance(v, Tensor)]
    trained = [p for p in model.parameters() if p.requires_grad]
    saved = SavedTensors([*target, *online, *inputs])
    gc.collect()
    with saved.watch():
        step.run()
    return dict(
        weights=size_of(online),
        target=size_of(target),
        optimizer_state=size_of(state),
        gradients=sum(p.numel() * p.element_size() for p in trained),
        inputs=size_of(inputs),
        activations=saved.most,
    )


def compare_memory(variants: Sequence[Variant], batch: int) -> Report:
    """Peak memory of the variants' steps, each in a process of its own."""
    rows = []
    for variant in variants:
        (found,) = measure(variant, batch)
        row = dict(name=variant.name, **{f: found[f] / MIB for f in FIELDS})
        rows.append(dict(row, ratio=row["peak"] / (rows or [row])[0]["peak"]))
    columns = {"name": "", **dict.fromkeys(FIELDS, ".1f"), "ratio": ".2f"}
    return Report(rows, columns, NOTE, dict(batch=batch))


FIELDS = ("peak", "weights", "target", "optimizer_state", "gradients", "inputs")
FIELDS += ("activations", "other")
NOTE = """MiB; peak: beyond what was there before the model; activations: autograd's, at
most; other: rest of the peak, below 0 where gradients come as activations go"""
