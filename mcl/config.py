"""What the command line and the machine change of a config."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import DATA_SAMPLERS

from .datasets.replay import ReplayableSampler
from .errors import InputError, one_value
from .levels import check_ratios, check_size
from .models.parts import share_model

LOOP = "MCLTrainLoop"
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def read_config(path: str) -> Config:
    """The config of a file.

    Raises:
        InputError: when there is no such file, or it is no config.
    """
    if not Path(path).is_file():
        raise InputError(f"config {path}: there is no such file")
    try:
        return Config.fromfile(path)
    except (SyntaxError, OSError) as error:
        raise InputError(f"config {path}: it cannot be read ({error})") from error
    except ImportError as error:
        raise InputError(
            f"config {path}: a module of its custom_imports is missing; install this "
            f"repository, or put that file on PYTHONPATH ({error.args[0]})"
        ) from error


def merge_options(cfg: Config, overrides: dict) -> None:
    """Merge --cfg-options; a key that the config had not may be a slip of the pen.

    Raises:
        InputError: when a list is given an index that it has not.
    """
    new = sorted({key.split(".")[0] for key in overrides} - set(cfg))
    if new:
        print(f"--cfg-options: the config had no {new}; check the spelling", flush=True)
    _replace_length(cfg, overrides)
    try:
        cfg.merge_from_dict(overrides)
    except (KeyError, TypeError) as error:
        raise InputError(f"--cfg-options: {error}") from error


def _replace_length(cfg: Config, overrides: dict) -> None:
    """Let ``max_epochs`` of the command line replace the config's ``max_iters``."""
    names = {"max_iters", "max_epochs"}
    given = {name for name in names if f"train_cfg.{name}" in overrides}
    if len(given) == 1 and str((cfg.get("train_cfg") or {}).get("type")) == LOOP:
        for name in names - given:
            cfg.train_cfg.pop(name, None)


def settle_loaders(cfg: Config) -> None:
    """Settings of a loader that follow from others, so that one override is enough."""
    for name in LOADERS:
        loader = cfg.get(name)
        if loader and loader.get("num_workers") == 0:
            loader.persistent_workers = False


def share_batch_size(loader: Mapping) -> dict:
    """A loader's config with its batch size handed to a ``ReplayableSampler``.

    Raises:
        InputError: when the sampler's config says another one.
    """
    sampler = dict(loader.get("sampler") or {})
    kind = sampler.get("type")
    kind = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
    if isinstance(kind, type) and issubclass(kind, ReplayableSampler):
        names = ("train_dataloader.batch_size", "train_dataloader.sampler.batch_size")
        given = (loader.get("batch_size"), sampler.get("batch_size"))
        size = one_value(dict(zip(names, given, strict=True)), None)
        sampler = dict(sampler, batch_size=size)
    return dict(loader, sampler=sampler)


def adapt_to_cpu(cfg: Config) -> str:
    """Change what needs an accelerator; return one line that says so.

    SyncBN becomes BN, the process group gloo, mixed precision bfloat16 autocast
    without a loss scaler, or float32 where that computes wrong gradients, and loaders
    do not pin memory.
    """
    cfg.sync_bn = None
    _replace_sync_bn(cfg.get("model"))
    dist_cfg = cfg.setdefault("env_cfg", ConfigDict()).setdefault(
        "dist_cfg", ConfigDict()
    )
    dist_cfg.backend = "gloo"
    # DistributedDataParallel takes no device indices on a CPU.
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    wrapper = cfg.get("optim_wrapper")
    if wrapper and str(wrapper.get("type")).endswith("AmpOptimWrapper"):
        wrapper.type = "mmpretrain.BFloat16OptimWrapper"
        wrapper.pop("loss_scale", None)
        wrapper.pop("dtype", None)
    amp = bool(wrapper) and str(wrapper.get("type")).endswith("BFloat16OptimWrapper")
    precision = "bfloat16 autocast without a loss scaler" if amp else "float32"
    if amp and _shrinks_to_cells(cfg):
        wrapper.type = "OptimWrapper"
        precision = "float32 (bfloat16 would give wrong gradients for crops so small)"
    for name in LOADERS:
        if cfg.get(name):
            cfg[name].pin_memory = False
    return f"no accelerator found: running on the CPU with BN, gloo, {precision}"


def use_mixed_precision(cfg: Config) -> None:
    """bfloat16 without a loss scaler where the device has it, else float16."""
    if not torch.cuda.is_available() or torch.cuda.is_bf16_supported(
        including_emulation=False
    ):
        cfg.optim_wrapper.type = "mmpretrain.BFloat16OptimWrapper"
        cfg.optim_wrapper.pop("loss_scale", None)
        cfg.optim_wrapper.pop("dtype", None)
    elif not str(cfg.optim_wrapper.get("type")).endswith("AmpOptimWrapper"):
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def _replace_sync_bn(node) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "type" and value == "SyncBN":
                node[key] = "BN"
            _replace_sync_bn(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _replace_sync_bn(value)


def _shrinks_to_cells(cfg: Config) -> bool:
    """Whether crops off the canvas are single cells before the backbone's last stage.

    There torch (2.14, 2.15) computes garbage on a CPU in bfloat16 for the weights of a
    ResNet's 3 x 3 conv of stride 2.

    Raises:
        InputError: for a size or ratios that cannot work.
    """
    model = cfg.get("model") or {}
    montage = (model.get("data_preprocessor") or {}).get("montage") or {}
    if montage.get("on_canvas", True):
        return False
    montage = share_model(model)["data_preprocessor"]["montage"]
    # The map before the last stage has a cell for 16 pixels, or a part of them.
    return check_size(montage["size"]) // max(check_ratios(montage["ratios"])) <= 16


def join_cpu_processes(launcher: str) -> None:
    """Set up gloo; the host's own set-up asks every process for a CUDA device.

    Raises:
        InputError: for a launcher other than torchrun.
    """
    if launcher == "none":
        return
    if launcher != "pytorch":
        raise InputError(
            f"--launcher {launcher}: without an accelerator only `pytorch` works; "
            "use tools/dist_train.sh"
        )
    torch.distributed.init_process_group("gloo")


def leave_processes() -> None:
    """Leave the process group, if any, at the end of a run.

    Its threads, where they still run as Python ends, can abort the process.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def datasets(node) -> Iterator[dict]:
    """Every data set's config under a loader's, wrappers left out."""
    return (dataset for _, dataset in named_datasets(node, "dataset"))


def named_datasets(node, field: str) -> Iterator[tuple[str, dict]]:
    """The same, each behind its field, as ``--cfg-options`` takes it."""
    if not isinstance(node, dict):
        return
    parts = node.get("datasets") or ()
    inner = {f"datasets.{i}": child for i, child in enumerate(parts)}
    if not inner and "dataset" in node:
        inner = dict(dataset=node["dataset"])
    for name, child in inner.items():
        yield from named_datasets(child, f"{field}.{name}")
    if not inner:
        yield field, node
