"""Two processes, for real, with gloo."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.model import MMDistributedDataParallel

from mcl.datasets import View

from .conftest import SHRINK, TINY, options, random_views, run_tool, shrunk_model

WORLD, BATCH = 2, 8


@contextmanager
def in_group(rank: int, folder: str | Path) -> Iterator[None]:
    """Let this process be one of ``WORLD``.

    They find each other by a file: a port that was free a moment ago may be another
    test's by now. They leave before Python ends, when gloo's threads can abort it.
    """
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=WORLD
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


# The paper's, and one that reads every level's targets, remembers them, and computes
# the first view's gradient early.
HEADS = (
    {},
    {"head.assignment": "all", "head.queue": 24, "early_backward": True},
)


def model_and_views(head: dict):
    """The model with BN in eval mode, and the views of each process."""
    torch.manual_seed(0)
    model = shrunk_model(**head).eval()
    model.head.training = True  # its queue fills; its layers stay in eval mode
    return model, [random_views(model, BATCH, seed=rank) for rank in range(WORLD)]


def one_process(rank: int, folder: str, head: dict) -> None:
    with in_group(rank, folder):
        torch.save(one_step(rank, head), f"{folder}/{rank}.pth")


def one_step(rank: int, head: dict) -> tuple[dict, dict, dict]:
    """Losses, gradients and queue of a process that sees its half of the batch."""
    model, views = model_and_views(head)
    with torch.no_grad():
        model.loss(views[rank])
    wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    losses = wrapped(views[rank], mode="loss")
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    losses = {k: v.detach() for k, v in losses.items()}
    queue = {k: v for k, v in model.state_dict().items() if "queue" in k}
    return losses, gradients, queue


def whole_batch(views: list) -> list[View]:
    """Both processes' views as those of one batch of twice the size."""
    joined = []
    for view in zip(*views, strict=True):
        levels = range(len(view[0].canvases))
        canvases = [torch.cat([v.canvases[lv] for v in view]) for lv in levels]
        index = [
            torch.cat([v.image_index[lv] + r * BATCH for r, v in enumerate(view)])
            for lv in levels
        ]
        joined.append(View(canvases, index))
    return joined


@pytest.mark.parametrize("head", HEADS, ids=["image", "all levels, queue"])
def test_two_processes_equal_one_of_the_whole_batch(tmp_path, head):
    mp.spawn(one_process, (str(tmp_path), head), nprocs=WORLD)
    parts = [torch.load(tmp_path / f"{r}.pth") for r in range(WORLD)]
    model, views = model_and_views(head)
    with torch.no_grad():
        model.loss(whole_batch(views))
    losses = model.loss(whole_batch(views))
    sum(v for k, v in losses.items() if k.startswith("loss")).backward()
    for name in (k for k in losses if k.startswith(("loss", "ce"))):
        mean = sum(part[0][name] for part in parts) / WORLD
        assert mean.item() == pytest.approx(losses[name].item(), rel=1e-5), name
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            # Of gradients of some hundreds an element near 0 is rounding noise.
            noise = 1e-6 * max(1.0, weight.grad.abs().max().item())
            torch.testing.assert_close(
                parts[0][1][name], weight.grad, rtol=1e-3, atol=noise, msg=name
            )

    state = model.state_dict()
    assert len(parts[0][2]) == (2 if head else 0)
    for name, remembered in parts[0][2].items():
        assert torch.equal(remembered, parts[1][2][name])
        torch.testing.assert_close(remembered, state[name])


ONE = "--standalone --local_addr 127.0.0.1"
HERE = "--node_rank 0 --master_addr 127.0.0.1 --master_port 5"
OTHERS = dict(NODE_RANK="3", MASTER_ADDR="node0")


@pytest.mark.parametrize(
    ("env", "wanted"),
    [
        ({}, f"--nnodes 1 {ONE}"),
        (OTHERS, f"--nnodes 1 {ONE}"),
        (dict(OTHERS, PORT="5"), f"--nnodes 1 {HERE}"),
        (
            dict(OTHERS, NNODES="4"),
            "--nnodes 4 --node_rank 3 --master_addr node0 --master_port 29500",
        ),
        (
            dict(OTHERS, NNODES="4", PORT="5"),
            "--nnodes 4 --node_rank 3 --master_addr node0 --master_port 5",
        ),
        (dict(NNODES="4", NODE_RANK="0"), "NNODES=4 needs MASTER_ADDR"),
        (dict(NNODES="4", MASTER_ADDR="node0"), "NNODES=4 needs NODE_RANK, 0 to 3"),
        (dict(NNODES="two"), "NNODES 'two' is not a count"),
        (dict(PORT="first"), "PORT 'first' is not a port"),
        (dict(PORT="65536"), "PORT '65536' is not a port"),
    ],
)
def test_dist_train_tells_torchrun_who_meets_where(tmp_path, env, wanted):
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    env = dict(env, PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = run_tool("tools/dist_train.sh", TINY, 2, "--amp", check=False, **env)
    if wanted.startswith("--"):
        end = f"tools/train.py {TINY} --launcher pytorch --amp\n"
        assert done.stdout.startswith(
            f"-m torch.distributed.run {wanted} --nproc_per_node 2 "
        )
        assert done.stdout.endswith(end) and done.returncode == 0
    else:
        assert wanted in done.stderr and done.returncode == 2 and not done.stdout


def test_dist_train_runs_the_recipe_on_two_processes(tmp_path, image_folder):
    overrides = {
        **SHRINK,
        "train_dataloader.dataset.dataset.data_root": image_folder,
        "train_cfg.max_iters": 2,
        "default_hooks.logger.interval": 1,
    }
    done = run_tool(
        "tools/dist_train.sh",
        TINY,
        WORLD,
        "--work-dir",
        tmp_path,
        "--cfg-options",
        *options(overrides),
        OMP_NUM_THREADS="1",
    )
    assert done.stdout.count("no accelerator found") == 1
    assert "Iter(train) [2/2]" in done.stdout + done.stderr
    checkpoint = torch.load(tmp_path / "iter_2.pth", weights_only=False)
    assert checkpoint["state_dict"]["target.step"] == 2
