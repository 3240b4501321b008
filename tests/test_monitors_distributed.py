"""The monitors in two processes, with gloo, against one."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel

from mcl.engine import EmbeddingMonitorHook
from mcl.engine.knn import knn_vote

from .conftest import random_views, shrunk_model
from .test_distributed import WORLD, in_group
from .test_knn import hook_for, write_classes


def accuracies(root: Path) -> tuple[dict[str, float], list]:
    """Of a model that does not tell these noisy images apart fully.

    Also what was voted on, for each kind of features: the bank and its labels.
    """
    torch.manual_seed(0)
    model = shrunk_model()
    banks = []

    def watch(queries, bank, labels, *args):
        banks.append((bank, labels))
        return knn_vote(queries, bank, labels, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcl.engine.knn.knn_vote", watch)
        scores = hook_for(root, model, k=7, batch_size=4).evaluate(model)
    return scores, banks


def metrics(rank: int, wrap=lambda model: model) -> dict[str, float]:
    """What the head reports, and the monitor judges, of a process' images."""
    torch.manual_seed(0)
    model = shrunk_model().train()
    runner = SimpleNamespace(
        iter=0,
        hooks=[],
        model=wrap(model),
        message_hub=MessageHub.get_instance(f"rank {rank}"),
    )
    hook, judged = EmbeddingMonitorHook(interval=1, warmup=0), {}
    hook._warn = lambda _, found: judged.update(found)
    hook.before_train_iter(runner)
    outputs = runner.model(random_views(model, seed=rank), mode="loss")
    for name, value in outputs.items():
        runner.message_hub.update_scalar(f"train/{name}", value.item())
    hook.after_train_iter(runner, 0, None, outputs)
    return judged


def one_process(rank: int, folder: Path) -> None:
    def wrap(model):
        return MMDistributedDataParallel(
            model, device_ids=None, broadcast_buffers=False
        )

    with in_group(rank, folder):
        found = dict(knn=accuracies(folder), monitor=metrics(rank, wrap))
        torch.save(found, folder / f"{rank}.pth")


def test_two_processes_agree_and_equal_one(tmp_path):
    # 21 and 9 images: neither divides by two processes
    write_classes(tmp_path / "train", 7, noise=500)
    write_classes(tmp_path / "val", 3, noise=500)
    mp.spawn(one_process, (tmp_path,), nprocs=WORLD)
    found = [torch.load(tmp_path / f"{rank}.pth") for rank in range(WORLD)]
    alone, banks = accuracies(tmp_path)
    assert all(0 < score < 1 for score in alone.values())
    for scores, gathered in (part["knn"] for part in found):
        assert scores == alone
        torch.testing.assert_close(gathered, banks, rtol=1e-4, atol=1e-6)
    assert found[0]["monitor"] == found[1]["monitor"]
    parts = [metrics(rank) for rank in range(WORLD)]
    assert set(parts[0]) == set(found[0]["monitor"])
    for name, mean in found[0]["monitor"].items():
        # Targets are of both processes together, and with them the negatives.
        if name.startswith(("target_", "ce_")):
            continue
        expected = sum(part[name] for part in parts) / WORLD
        if name == "chance":  # of the targets of both processes
            expected += torch.tensor(2.0).log().item()
        assert mean == pytest.approx(expected, rel=1e-4), name
