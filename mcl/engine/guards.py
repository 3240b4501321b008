"""Hooks that stop a run with a clear message before it does damage."""

from collections.abc import Sequence

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..errors import InputError
from ..export.load_report import LoadReport
from .steps import unwrap

REMEDY = (
    "lower optim_wrapper.optimizer.lr or lengthen the warm-up (with float16, try "
    "bfloat16). Start anew, or from an earlier checkpoint by load_from; --resume would "
    "restore the old rate. No weights that are not finite were written, but the last "
    "checkpoint may already be bad"
)


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop at a loss that is not finite, and name the iteration and its images.

    The losses stay on the device. They are checked together every ``interval``
    iterations, with one synchronization, and before each checkpoint is written. No
    checkpoint is overwritten with bad weights.

    Args:
        interval: iterations between checks.
    """

    priority = "HIGH"

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self.pending: list[tuple[int, torch.Tensor, Sequence[str]]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: dict
    ) -> None:
        samples = data_batch.get("data_samples")
        # Batches of several branches are dicts; their images stay unnamed.
        samples = samples if isinstance(samples, list) else []
        paths = [str(s.get("img_path")) for s in samples]
        self.pending.append((runner.iter + 1, outputs["loss"].detach(), paths))
        on_cpu = outputs["loss"].device.type == "cpu"
        if on_cpu or self.every_n_train_iters(runner, self.interval):
            self._check()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._check()
        # Another process' loss or the last step may have made weights not finite.
        for name, weight in checkpoint.get("state_dict", {}).items():
            if weight.is_floating_point() and not weight.isfinite().all():
                raise InputError(
                    f"{name} is not finite at iteration {runner.iter + 1}, so no "
                    f"checkpoint is written: {REMEDY}"
                )

    def _check(self) -> None:
        pending, self.pending = self.pending, []
        if not pending:
            return
        finite = torch.stack([loss for _, loss, _ in pending]).isfinite().tolist()
        if not all(finite):
            iteration, loss, paths = pending[finite.index(False)]
            raise InputError(
                f"the loss is {loss.item()} at iteration {iteration}: {REMEDY}. "
                f"Images: {paths}"
            )


def name_unreadable(
    runner: Runner, found: dict[str, str], named: set[str]
) -> dict[str, str]:
    """Warn once of each image that some process could not read.

    Args:
        runner: the run's.
        found: path and reason of this process' unreadable images.
        named: paths already warned of; the paths of this call are added.

    Returns:
        Path and reason of all processes' unreadable images.
    """
    merged = {}
    for part in all_gather_object(found):
        merged.update(part)
    for path, reason in merged.items():
        if path not in named and get_rank() == 0:
            runner.logger.warning(f"unreadable image replaced: {reason}")
    named.update(merged)
    return merged


@HOOKS.register_module()
class ClassesHook(Hook):
    """Check before training that data sets and head have the same classes.

    Labels are positions in a list of class names. One class folder more or less shifts
    them. Data sets without class names, such as a list of labeled images, are skipped.

    Raises:
        InputError: before the run, naming the classes that differ or both numbers.
    """

    def before_train(self, runner: Runner) -> None:
        loaders = dict(train_dataloader=runner.train_dataloader)
        if runner.val_loop is not None:
            loaders["val_dataloader"] = runner.val_dataloader
        known = {}
        for name, loader in loaders.items():
            classes = getattr(loader.dataset, "metainfo", {}).get("classes")
            if classes is not None:
                known[f"{name}.dataset"] = list(classes)
        compare_classes(known)
        number = unwrap(runner.model).head.num_classes
        for name, classes in known.items():
            if len(classes) != number:
                raise InputError(
                    f"model.head.num_classes={number}, but {name} has "
                    f"{len(classes)} classes: make them equal"
                )


def compare_classes(classes: dict[str, list]) -> None:
    """Check that two data sets have the same classes in the same order.

    Args:
        classes: class names of one or two data sets, by the data set's field.

    Raises:
        InputError: naming the classes that differ.
    """
    if len(classes) < 2:
        return
    (field, names), (other, other_names) = classes.items()
    if names != other_names:
        differ = sorted(set(names) ^ set(other_names), key=str)[:5]
        what = f"{differ} are in one of them only" if differ else "the order differs"
        raise InputError(
            f"{field} has {len(names)} classes and {other} {len(other_names)}: {what}, "
            "so the labels differ; give both the same class folders, or the same "
            "metainfo.classes"
        )


@HOOKS.register_module()
class UnreadableImageHook(Hook):
    """Name each unreadable image once, and stop when there are too many.

    Images of all workers and processes count. Processes exchange theirs every
    ``interval`` iterations. Images of the validation are named after it and do not
    count.

    Args:
        max_fraction: largest tolerated fraction of the data set, 0..1.
        interval: iterations between exchanges; a single process needs none.
    """

    def __init__(self, max_fraction: float = 0.01, interval: int = 50) -> None:
        if not 0 <= max_fraction <= 1:
            raise InputError(f"max_fraction={max_fraction}: give a number from 0 to 1")
        self.max_fraction = max_fraction
        self.interval = interval
        self.found: dict[str, str] = {}
        self.in_validation: dict[str, str] = {}
        self.named: set[str] = set()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: dict
    ) -> None:
        for sample in data_batch["data_samples"]:
            self.found.update(sample.get("replaced", {}))
        if get_world_size() == 1 or self.every_n_train_iters(runner, self.interval):
            self._exchange(runner)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence
    ) -> None:
        for sample in data_batch["data_samples"]:
            self.in_validation.update(sample.get("replaced", {}))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        name_unreadable(runner, self.in_validation, self.named)

    def _exchange(self, runner: Runner) -> None:
        unreadable = name_unreadable(runner, self.found, self.named)
        total = len(runner.train_dataloader.dataset)
        if len(unreadable) > self.max_fraction * total:
            listed = "\n  ".join(unreadable.values())
            raise InputError(
                f"{len(unreadable)} of {total} images are unreadable, more than "
                f"max_fraction={self.max_fraction} of the data set: repair or remove "
                f"them, or raise UnreadableImageHook.max_fraction\n  {listed}"
            )


@HOOKS.register_module()
class LoadReportHook(Hook):
    """Report what a checkpoint fills, and refuse one of another architecture.

    The runner itself loads what fits and drops the rest without an error.

    Args:
        source: the checkpoint's path, for messages.
        whole: whether the file must fill every weight of the model (to resume or
            evaluate). Otherwise it must fill the backbone, and whatever else of the
            trunk it has must fit.
        refuse: whether to raise or only report.
    """

    def __init__(self, source: str, whole: bool = False, refuse: bool = True) -> None:
        self.source = source
        self.whole = whole
        self.refuse = refuse

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        weights = checkpoint.get("state_dict", checkpoint)
        report = LoadReport.compare(weights, unwrap(runner.model).state_dict())
        runner.logger.info(f"{self.source}:\n{report}")
        problems = report.gaps() if self.whole else report.problems()
        if problems and self.refuse:
            raise InputError(
                f"{self.source}: this checkpoint is of another architecture than the "
                f"config's model ({'; '.join(problems)}); give the config that fits, "
                "or pass --allow-partial-load to load what fits"
            )
