"""Reading of configs, and changes by the command line and for the machine."""

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
    """Read the config in a file.

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
    """Merge --cfg-options, and warn about new keys, which may be typing errors.

    Raises:
        InputError: for an index that a list does not have.
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
    """Let ``max_epochs`` or ``max_iters`` replace the other one of the config."""
    names = {"max_iters", "max_epochs"}
    given = {name for name in names if f"train_cfg.{name}" in overrides}
    if len(given) == 1 and str((cfg.get("train_cfg") or {}).get("type")) == LOOP:
        for name in names - given:
            cfg.train_cfg.pop(name, None)


def settle_loaders(cfg: Config) -> None:
    """Turn ``persistent_workers`` off in loaders with ``num_workers=0``."""
    for name in LOADERS:
        loader = cfg.get(name)
        if loader and loader.get("num_workers") == 0:
            loader.persistent_workers = False


def share_batch_size(loader: Mapping) -> dict:
    """Copy a loader's config with its batch size given to a ``ReplayableSampler``.

    Raises:
        InputError: when the sampler's config has another batch size.
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
    """Change settings that need an accelerator; return a line that reports this.

    SyncBN becomes BN, and the process group's backend gloo. Mixed precision becomes
    bfloat16 autocast without a loss scaler, or float32 where bfloat16 gives wrong
    gradients. Loaders do not pin memory.
    """
    cfg.merge_from_dict({"sync_bn": None, "env_cfg.dist_cfg.backend": "gloo"})
    for node in walk(cfg.get("model")):
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
    # DistributedDataParallel takes no device indices on a CPU.
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    wrapper = cfg.get("optim_wrapper")
    if wrapper and str(wrapper.get("type")).endswith("AmpOptimWrapper"):
        _use_bfloat16(wrapper)
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
    """Use bfloat16 without a loss scaler if the device supports it, else float16."""
    wrapper = cfg.optim_wrapper
    has_gpu, native = torch.cuda.is_available(), dict(including_emulation=False)
    if not has_gpu or torch.cuda.is_bf16_supported(**native):
        _use_bfloat16(wrapper)
    elif not str(wrapper.get("type")).endswith("AmpOptimWrapper"):
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")


def _use_bfloat16(wrapper: ConfigDict) -> None:
    wrapper.type = "mmpretrain.BFloat16OptimWrapper"
    wrapper.pop("loss_scale", None)
    wrapper.pop("dtype", None)


def walk(node) -> Iterator[dict]:
    """Yield every dict in a config, the node itself first."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from walk(child)


def _shrinks_to_cells(cfg: Config) -> bool:
    """Whether tiles without canvases are one cell before the backbone's last stage.

    For these, torch (2.14, 2.15) on a CPU computes wrong bfloat16 gradients of the
    weights of a ResNet's 3 x 3 conv of stride 2.

    Raises:
        InputError: for a wrong size or wrong ratios.
    """
    model = cfg.get("model") or {}
    montage = (model.get("data_preprocessor") or {}).get("montage") or {}
    if montage.get("on_canvas", True):
        return False
    montage = share_model(model)["data_preprocessor"]["montage"]
    # A cell of the map before the last stage covers 16 pixels.
    return check_size(montage["size"]) // max(check_ratios(montage["ratios"])) <= 16


def join_cpu_processes(launcher: str) -> None:
    """Set up gloo. The host's own setup needs a CUDA device for every process.

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

    Threads of the group that still run when Python ends can abort the process.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def datasets(node) -> Iterator[dict]:
    """Yield the config of every data set of a loader, without wrappers."""
    return (dataset for _, dataset in named_datasets(node, "dataset"))


def named_datasets(node, field: str) -> Iterator[tuple[str, dict]]:
    """Yield the same with their fields, as ``--cfg-options`` takes them.

    Args:
        node: a data set's config, perhaps of a wrapper.
        field: the node's field.
    """
    if not isinstance(node, dict):
        return
    if node.get("datasets"):
        for i, child in enumerate(node["datasets"]):
            yield from named_datasets(child, f"{field}.datasets.{i}")
    elif "dataset" in node:
        yield from named_datasets(node["dataset"], f"{field}.dataset")
    else:
        yield field, node
