"""Checks before a run starts: paths, checkpoints, labels."""

import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from .config import LOADERS, datasets, named_datasets, walk
from .datasets.archives import find_archives
from .engine.loop import EPOCH_LOOP
from .errors import InputError
from .export.checkpoint import read_checkpoint

# Lines of a list whose images must exist before a run.
LIST_CHECKED = 100


def make_work_dir(path: str) -> None:
    """Make the folder of logs and checkpoints.

    Raises:
        InputError: when it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"work_dir={path}: it cannot be made ({error})") from error


def check_paths(cfg: Config, trust: bool = False) -> None:
    """Check every folder and file that the config names.

    Args:
        cfg: config of a run.
        trust: whether its checkpoints may hold objects other than tensors.

    Raises:
        InputError: naming the field and the path that does not exist.
    """
    _check_checkpoint(cfg, trust)
    for node in walk(cfg.get("model")):
        if node.get("type") in ("Pretrained", "PretrainedInit"):
            _check_initial(node, trust)
    check_data(cfg)


def check_loop(cfg: Config) -> None:
    """Refuse the host's loop of epochs, before it is built with arguments of another.

    Raises:
        InputError: where the schedule counts optimizer steps.
    """
    hook = (cfg.get("default_hooks") or {}).get("param_scheduler") or {}
    loop = (cfg.get("train_cfg") or {}).get("type")
    steps = str(hook.get("type")).endswith("OptimStepParamSchedulerHook")
    if steps and str(loop).endswith("EpochBasedTrainLoop"):
        raise InputError(EPOCH_LOOP)


def check_data(cfg: Config, loaders: Sequence[str] = LOADERS) -> None:
    """Check every folder, list and archive that the config's data sets name.

    Args:
        cfg: config of a run.
        loaders: the loaders to check.

    Raises:
        InputError: naming the field and the path that does not exist.
    """
    for loader in loaders:
        node = (cfg.get(loader) or {}).get("dataset")
        for field, dataset in named_datasets(node, f"{loader}.dataset"):
            _check_dataset(field, dataset)


def _check_checkpoint(cfg: Config, trust: bool) -> None:
    path, resume = cfg.get("load_from"), cfg.get("resume")
    if resume and not path:
        path = find_latest_checkpoint(cfg.work_dir)
    if not path or "://" in path:
        return
    content = read_checkpoint(path, trust)
    if resume and not {"meta", "optimizer"} <= set(content):
        raise InputError(
            f"{path}: it holds weights only, nothing to resume from; give it as "
            "--cfg-options load_from="
        )


def _check_initial(init: dict, trust: bool) -> None:
    """Check a file of initial weights. The host would unpickle any content."""
    path, prefix = str(init.get("checkpoint")), init.get("prefix") or ""
    if "://" in path:
        return
    content = read_checkpoint(path, trust)
    weights = content.get("state_dict", content)
    if not any(str(name).startswith(prefix) for name in weights):
        raise InputError(
            f"init_cfg.prefix={prefix!r}: no weight of {path} begins with it; give the "
            f"prefix of its names, such as {next(iter(weights), 'none')}"
        )


def _check_dataset(field: str, dataset: dict) -> None:
    if "://" in str(dataset.get("data_root")):
        return
    root = Path(dataset.get("data_root") or "")
    if not root.is_dir():
        raise InputError(
            f"{field}.data_root={root}: there is no such folder; set it with "
            "--cfg-options or link the data there"
        )
    ann_file = root / (dataset.get("ann_file") or "")
    if dataset.get("ann_file") and not ann_file.is_file():
        raise InputError(f"{field}.ann_file={ann_file}: there is no such file")
    if dataset.get("archives") is not None:
        try:
            find_archives(dataset["archives"], str(root))
        except InputError as error:
            raise InputError(f"{field}.{error}") from error
        return
    prefixes = dataset.get("data_prefix") or ""
    prefixes = prefixes if isinstance(prefixes, dict) else dict(img_path=prefixes)
    for prefix in prefixes.values():
        folder = root / prefix
        if not folder.is_dir():
            raise InputError(f"{field}.data_prefix={folder}: there is no such folder")
        if not any(folder.iterdir()):
            raise InputError(f"{field}: the folder {folder} is empty; put images there")
    if ann_file.is_file() and str(dataset.get("type")).endswith("CustomDataset"):
        folder = root / prefixes.get("img_path", "")
        _check_list(
            f"{field}.ann_file", ann_file, folder, dataset.get("with_label", True)
        )


def _check_list(field: str, file: Path, folder: Path, labeled: bool) -> None:
    """Check the form of all lines of a list, and that its first images exist."""
    lines = file.read_text().splitlines()
    if not lines:
        raise InputError(
            f"{field}={file}: it is empty; write one image's path per line"
        )
    form = "`path label`, with an integer" if labeled else "`path`"
    for number, line in enumerate(lines, 1):
        path, _, label = line.strip().rpartition(" ") if labeled else (line, "", "0")
        if not path.strip() or not label.isdecimal():
            raise InputError(
                f"{field}={file}: line {number} is {line!r}, but a line is {form}; "
                f"correct it or set with_label={not labeled}"
            )
        # Later images are reported and counted when they are loaded.
        if number <= LIST_CHECKED and not (folder / path).is_file():
            raise InputError(
                f"{field}={file}: line {number} names {folder / path}, which is not "
                "there; paths are relative to data_root and data_prefix, and with "
                f"with_label={labeled} a line is {form}"
            )


def check_labels(cfg: Config) -> None:
    """Check a detector's number of classes against its COCO-format annotations.

    The data set silently drops categories it does not know. A head with too few classes
    fails during training with an index error.

    Raises:
        InputError: naming the file and the classes.
    """
    num_classes = _num_classes(cfg.get("model"))
    for dataset in datasets((cfg.get("train_dataloader") or {}).get("dataset")):
        classes = (dataset.get("metainfo") or {}).get("classes")
        root = Path(dataset.get("data_root") or "")
        ann_file = root / (dataset.get("ann_file") or "")
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
    if len(unknown) == len(set(names.values())):
        raise InputError(
            f"{ann_file}: none of its categories {unknown} is among metainfo.classes "
            f"{tuple(classes)}; list them there"
        )
    if unknown:
        print(f"{ann_file}: objects of {unknown}, not in metainfo.classes, are dropped")
    stray = {a["category_id"] for a in annotations["annotations"]} - set(names)
    if stray:
        raise InputError(
            f"{ann_file}: annotations use category_id {sorted(stray)}, but its "
            f"categories are {sorted(names)}; correct the file"
        )


def _num_classes(node) -> int | None:
    """``num_classes`` of the box head, or of a one-stage detector's head."""
    if not node:
        return None
    head = (node.get("roi_head") or {}).get("bbox_head") or node.get("bbox_head") or {}
    if isinstance(head, (list, tuple)):
        head = head[0]
    return head.get("num_classes")
