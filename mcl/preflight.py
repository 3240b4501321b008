"""What is looked at before a run starts: device, paths, labels."""

import json
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config, ConfigDict

from .errors import InputError

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def adapt_to_cpu(cfg: Config) -> str:
    """Change what needs an accelerator; return one line that says so.

    SyncBN becomes BN, the process group gloo, mixed precision bfloat16 autocast
    without a loss scaler, and loaders do not pin memory.
    """
    cfg.sync_bn = None
    _replace_sync_bn(cfg.get("model"))
    dist_cfg = cfg.setdefault("env_cfg", ConfigDict()).setdefault(
        "dist_cfg", ConfigDict()
    )
    dist_cfg.backend = "gloo"
    # DistributedDataParallel takes no device indices on a CPU.
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
    )
    wrapper = cfg.get("optim_wrapper")
    if wrapper and wrapper.get("type", "").endswith("AmpOptimWrapper"):
        wrapper.type = "mmpretrain.BFloat16OptimWrapper"
        wrapper.pop("loss_scale", None)
        wrapper.pop("dtype", None)
    for name in LOADERS:
        if cfg.get(name):
            cfg[name].pin_memory = False
    amp = bool(wrapper) and wrapper.get("type", "").endswith("BFloat16OptimWrapper")
    precision = "bfloat16 autocast without a loss scaler" if amp else "float32"
    return f"no accelerator found: running on the CPU with BN, gloo, {precision}"


def _replace_sync_bn(node) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "type" and value == "SyncBN":
                node[key] = "BN"
            _replace_sync_bn(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _replace_sync_bn(value)


def _datasets(node) -> Iterator[dict]:
    """Every data set's config under a loader's, wrappers left out."""
    if not isinstance(node, dict):
        return
    inner = node.get("datasets") or ([node["dataset"]] if "dataset" in node else [])
    for child in inner:
        yield from _datasets(child)
    if not inner:
        yield node


def check_paths(cfg: Config) -> None:
    """Look for every folder and file that the config names.

    Raises:
        InputError: naming the field and the path that is not there.
    """
    load_from = cfg.get("load_from")
    if load_from and "://" not in load_from and not Path(load_from).is_file():
        raise InputError(f"load_from={load_from}: there is no such checkpoint")
    for loader in LOADERS:
        for dataset in _datasets((cfg.get(loader) or {}).get("dataset")):
            _check_dataset(loader, dataset)


def _check_dataset(loader: str, dataset: dict) -> None:
    root = Path(dataset.get("data_root") or "")
    field = f"{loader}.dataset"
    if "://" in str(root):
        return
    if not root.is_dir():
        raise InputError(
            f"{field}.data_root={root}: there is no such folder; set it with "
            "--cfg-options or link the data there"
        )
    ann_file = dataset.get("ann_file")
    if ann_file and not (root / ann_file).is_file():
        raise InputError(f"{field}.ann_file={root / ann_file}: there is no such file")
    prefixes = dataset.get("data_prefix") or ""
    for prefix in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
        folder = root / prefix
        if not folder.is_dir():
            raise InputError(f"{field}.data_prefix={folder}: there is no such folder")
        if not any(folder.iterdir()):
            raise InputError(f"{field}: the folder {folder} is empty; put images there")


def check_labels(cfg: Config) -> None:
    """Check a detector's number of classes against its COCO-format annotations.

    The data set drops categories it does not know without a word; a head with too
    few classes fails in the middle of training with an index error.

    Raises:
        InputError: naming the file and the classes.
    """
    num_classes = _num_classes(cfg.get("model"))
    for dataset in _datasets((cfg.get("train_dataloader") or {}).get("dataset")):
        classes = (dataset.get("metainfo") or {}).get("classes")
        ann_file = Path(dataset.get("data_root") or "") / (
            dataset.get("ann_file") or ""
        )
        if classes is None or ann_file.suffix != ".json":
            continue
        if num_classes is not None and num_classes != len(classes):
            raise InputError(
                f"num_classes={num_classes} in the model, but metainfo.classes of the "
                f"data set has {len(classes)}: make them equal"
            )
        _check_categories(ann_file, classes)


def _check_categories(ann_file: Path, classes) -> None:
    annotations = json.loads(ann_file.read_text())
    names = {c["id"]: c["name"] for c in annotations["categories"]}
    unknown = sorted(set(names.values()) - set(classes))
    if unknown:
        raise InputError(
            f"{ann_file}: categories {unknown} are not among metainfo.classes; their "
            "objects would be dropped. Add them, or remove them from the file"
        )
    stray = {a["category_id"] for a in annotations["annotations"]} - set(names)
    if stray:
        raise InputError(
            f"{ann_file}: annotations use category_id {sorted(stray)}, which its "
            f"categories do not list: they are {sorted(names)}; mend the file"
        )


def _num_classes(node) -> int | None:
    """``num_classes`` of the box head, or of a one-stage detector's head."""
    if not node:
        return None
    head = (node.get("roi_head") or {}).get("bbox_head") or node.get("bbox_head") or {}
    if isinstance(head, (list, tuple)):
        head = head[0]
    return head.get("num_classes")
