"""Is it collapsing? Metrics of the embeddings while a run goes on, and a warning."""

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS, METRICS

from ..errors import InputError
from .acceleration import logging_interval, store_metrics
from .steps import unwrap

MIN_STD = 0.3  # deviation times sqrt(D), 0..1
MIN_RANK = 2.0  # effective rank, from 1 on
CHANCE_MARGIN = 0.02  # nat that a cross-entropy must be below chance
PATIENCE = 3  # bad checks in a row
MIN_WARMUP = 500

SPREAD_REMEDY = (
    "The embeddings of different images are alike: it may have collapsed. Try a lower "
    "optim_wrapper.optimizer.lr, a longer warm-up, more images per iteration; see "
    "whether the images of the data set are too alike"
)
CHANCE_REMEDY = (
    "Tiles find their image no better than by guessing: it has collapsed or does not "
    "learn. Try another optim_wrapper.optimizer.lr, a lower "
    "model.head.loss.temperature, more images per iteration; see whether the tiles of "
    "this level are too small to show anything"
)


class CollapseAlarm:
    """Warns once per episode that a metric stays where it should not.

    An episode begins at the ``PATIENCE``-th bad check in a row and ends with the first
    good one.
    """

    def __init__(self) -> None:
        self.streaks: Counter[str] = Counter()

    def check(self, metrics: dict[str, float]) -> list[str]:
        """Judge the metrics of one check; return a warning for each kind of remedy.

        Args:
            metrics: ``std_p5``, ``rank_p5``, ``ce_p5`` and so on, with ``target_``
                before those of the target, and ``chance``. Others are passed over.
        """
        warnings: dict[str, list[str]] = {}
        for name, bad, limit, remedy in self._judge(metrics):
            self.streaks[name] = self.streaks[name] + 1 if bad else 0
            if self.streaks[name] == PATIENCE:
                level = name.rsplit("_", 1)[1]
                found = f"level {level}: {name} = {metrics[name]:.4g} is {limit}"
                warnings.setdefault(remedy, []).append(found)
        return [f"{'; '.join(found)}. {remedy}" for remedy, found in warnings.items()]

    @staticmethod
    def _judge(metrics: dict[str, float]) -> Iterator[tuple[str, bool, str, str]]:
        """Each metric's name, whether it is bad, its limit and what to try."""
        limits = dict(std=MIN_STD, rank=MIN_RANK)
        chance = metrics.get("chance")
        for name, value in metrics.items():
            kind = name.removeprefix("target_").split("_")[0]
            if kind in limits:
                # NaN is for NonFiniteLossHook to report.
                limit = limits[kind]
                yield name, value < limit, f"below {limit}", SPREAD_REMEDY
            elif kind == "ce" and chance is not None:
                text = f"not {CHANCE_MARGIN} nat below chance = {chance:.4g}"
                yield name, chance - value < CHANCE_MARGIN, text, CHANCE_REMEDY


@HOOKS.register_module()
class EmbeddingMonitorHook(Hook):
    """Log how far the embeddings are spread, and warn when they collapse.

    Every ``interval`` iterations the head is asked for
    :func:`~mcl.models.spread.spread_metrics` of each level: ``std_p5`` and ``rank_p5``
    of the projector's output, ``target_std_p5`` and ``target_rank_p5`` of the targets.
    They are means over views and processes. It costs nothing in between.

    The projector ends in a batch norm, which keeps ``std`` near 1 until everything
    before it is constant: the rank falls first. Tiles of ratios above 1 can also
    differ by their place on the canvas (the backbone pads its borders), whatever
    they show. That they say nothing of their image, or that the predictor is
    constant, is seen from ``ce`` at ``chance``. A rank cannot exceed the number of
    embeddings of a view in one process.

    Warnings come after ``warmup``, once for each episode (:class:`CollapseAlarm`).
    ``ce`` is averaged since the last check, and judged only where the loss trains it.

    Args:
        interval: iterations between checks; by default those of the run's
            ``LoggerHook``, so that each line of the log has new metrics.
        warmup: iterations without a warning; by default a tenth of the run, as
            long as the recipes' learning rates warm up, and at least 500.
        stop: whether to end the run instead of going on with a warning.

    Raises:
        InputError: for an option out of its range, and, where ``stop`` is set, when
            a level collapses.
    """

    # After RuntimeInfoHook, which stores the metrics, before the line of LoggerHook.
    priority = "HIGH"

    def __init__(
        self, interval: int | None = None, warmup: int | None = None, stop: bool = False
    ) -> None:
        if interval is not None and interval < 1:
            raise InputError(f"interval={interval}: it is 1 iteration or more")
        if warmup is not None and warmup < 0:
            raise InputError(f"warmup={warmup}: it is 0 iterations or more")
        self.interval = interval
        self.warmup = warmup
        self.stop = stop
        self.alarm = CollapseAlarm()

    def before_train(self, runner: Runner) -> None:
        if self.interval is None:
            self.interval = logging_interval(runner)
        if self.warmup is None:
            self.warmup = max(runner.max_iters // 10, MIN_WARMUP)

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        due = self.every_n_train_iters(runner, self.interval)
        unwrap(runner.model).head.monitored = due

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        # All iterations since the last check are past the warm-up.
        if runner.iter + 1 - self.interval >= self.warmup:
            metrics = {
                name: float(value)
                for name, value in outputs.items()
                if name == "chance" or "std_" in name or "rank_" in name
            }
            self._warn(runner, {**metrics, **self._cross_entropies(runner)})

    def _cross_entropies(self, runner: Runner) -> dict[str, float]:
        """Mean since the last check, and over processes, of each level's, nat.

        None where the loss does not train it: without negatives it may well rise.
        """
        loss = getattr(unwrap(runner.model).head, "loss_module", None)
        if not getattr(loss, "trains_cross_entropy", True):
            return {}
        store_metrics(runner)
        logged = runner.message_hub.log_scalars
        names = [name for name in logged if name.startswith("train/ce_")]
        means = torch.tensor([float(logged[n].mean(self.interval)) for n in names])
        all_reduce(means, op="mean")
        names = [name.removeprefix("train/") for name in names]
        return dict(zip(names, means.tolist(), strict=True))

    def _warn(self, runner: Runner, metrics: dict[str, float]) -> None:
        for message in self.alarm.check(metrics):
            checks = f"{PATIENCE} checks, {self.interval} iterations apart"
            message = f"iteration {runner.iter + 1}, after {checks}: {message}"
            if self.stop:
                raise InputError(f"{message}. EmbeddingMonitorHook.stop ends the run")
            runner.logger.warning(message)


@METRICS.register_module()
class LevelAccuracy(BaseMetric):
    """Share of images whose tile is classified rightly, for each level: 0..1.

    ``top1_p5`` is of images alone, ``top1_p4`` and so on of tiles of those levels,
    from the ``pred_label_p*`` of :meth:`~mcl.models.MCLSupervised.predict`.
    """

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            label = int(sample["gt_label"])
            self.results.append(
                {
                    name.removeprefix("pred_label_"): int(predicted) == label
                    for name, predicted in sample.items()
                    if name.startswith("pred_label_")
                }
            )

    def compute_metrics(self, results: list[dict[str, bool]]) -> dict[str, float]:
        return {
            f"top1_{level}": sum(r[level] for r in results) / len(results)
            for level in results[0]
        }
