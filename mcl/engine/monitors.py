"""Is it collapsing? Figures of the embeddings while a run goes on, and a warning."""

import inspect
import math
from collections import Counter
from collections.abc import Iterator

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch import Tensor, nn

from ..errors import InputError
from ..levels import level_name
from ..models.losses import normalize
from .logs import logging_interval, store_figures
from .steps import unwrap

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


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """Standard deviation times sqrt(D), and effective rank, of directions.

    The rows are L2-normalized first. The deviation is that of each of the D
    coordinates over the rows, averaged over the coordinates: 1 / sqrt(D) when the
    rows are spread evenly over the sphere (Chen and He 2021, SimSiam, section 4.1).
    The effective rank is exp(entropy of p), p a matrix' singular values divided by
    their sum (Roy and Vetterli 2007, The effective rank: a measure of effective
    dimensionality), of the rows' second moments, (D, D), not centered. So p is the
    share of each direction in the squared lengths: a direction that has 91 % of
    them leaves a rank of about 2.

    Args:
        embeddings: (N, D), of any floating type; computed in float32.

    Returns:
        (2,), float32: the deviation times sqrt(D), 0 (all rows equal) to 1, and the
        rank, 1 (all rows on a line) to min(N, D). NaN where an entry is not finite.
    """
    rows = normalize(embeddings)
    if not rows.isfinite().all():
        return rows.new_full((2,), math.nan)
    count, dims = rows.shape
    deviation = rows.std(dim=0, correction=0).mean() * dims**0.5
    # Either product has the eigenvalues that are not 0; the smaller one is faster.
    moments = rows @ rows.t() if count < dims else rows.t() @ rows
    values = torch.linalg.eigvalsh(moments).clamp(min=0)
    total, tiny = values.sum(), torch.finfo(values.dtype).tiny
    # Rows shorter than the norm's epsilon leave a total that is no normal number: none.
    shares = torch.where(total < tiny, 0, values / total.clamp(min=tiny))
    return torch.stack([deviation, torch.special.entr(shares).sum().exp()])


class Tap:
    """What neck, target and loss of a model pass on during one iteration.

    Attributes:
        online: level by level what the neck gave, (N_l, D) for each view.
        target: the same of the target network, for the levels that it embeds.
        num_targets: M, the targets that a tile is matched with.
    """

    def __init__(self, model: nn.Module) -> None:
        self.online: dict[int, list[Tensor]] = {}
        self.target: dict[int, list[Tensor]] = {}
        self.num_targets = 0
        self.handles = [model.neck.register_forward_hook(self._keep(self.online))]
        if isinstance(getattr(model, "target", None), nn.Module):
            hook = self._keep(self.target)
            self.handles.append(model.target.register_forward_hook(hook))
        if isinstance(getattr(model.head, "loss_module", None), nn.Module):
            self.handles.append(
                model.head.loss_module.register_forward_hook(
                    self._count, with_kwargs=True
                )
            )

    @staticmethod
    def _keep(found: dict[int, list[Tensor]]):
        def hook(module: nn.Module, inputs: tuple, output) -> None:
            levels = [output] if isinstance(output, Tensor) else output
            for level, embeddings in enumerate(levels):
                found.setdefault(level, []).append(embeddings.detach())

        return hook

    def _count(self, module: nn.Module, args: tuple, kwargs: dict, output) -> None:
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        if "targets" in given:
            valid = given.get("valid")
            count = len(given["targets"]) if valid is None else int(valid.sum())
            self.num_targets = count

    def close(self) -> None:
        """Take the hooks off the modules."""
        for handle in self.handles:
            handle.remove()

    def figures(self, names: list[str]) -> dict[str, Tensor]:
        """Spread of each level, all views together, and ``chance``.

        Args:
            names: of the levels.
        """
        figures = {}
        if self.num_targets:
            figures["chance"] = torch.tensor(
                math.log(self.num_targets), device=self.online[0][0].device
            )
        for prefix, found in (("", self.online), ("target_", self.target)):
            for level, views in found.items():
                deviation, rank = spread(torch.cat(views))
                figures[f"{prefix}std_{names[level]}"] = deviation
                figures[f"{prefix}rank_{names[level]}"] = rank
        return figures


class CollapseAlarm:
    """Says in words, once per episode, that a figure stays where it should not.

    An episode begins at the ``patience``-th bad look in a row and ends with the
    first good one. Any limit may be None: that figure is not judged.

    Args:
        min_std: least deviation times sqrt(D), 0..1.
        min_rank: least effective rank, from 1 on.
        chance_margin: least distance in nat of a level's cross-entropy from
            ``chance``, ln(number of targets).
        patience: bad looks in a row.

    Raises:
        InputError: for a limit out of its range.
    """

    def __init__(
        self,
        min_std: float | None = 0.3,
        min_rank: float | None = 2.0,
        chance_margin: float | None = 0.02,
        patience: int = 3,
    ) -> None:
        if min_std is not None and not 0 <= min_std <= 1:
            raise InputError(f"min_std={min_std}: it lies between 0 and 1")
        if min_rank is not None and min_rank < 1:
            raise InputError(f"min_rank={min_rank}: a rank is 1 or more")
        if chance_margin is not None and chance_margin < 0:
            raise InputError(f"chance_margin={chance_margin}: it is 0 or more, in nat")
        if patience < 1:
            raise InputError(f"patience={patience}: it is a number of looks from 1 on")
        self.min_std = min_std
        self.min_rank = min_rank
        self.chance_margin = chance_margin
        self.patience = patience
        self.streaks: Counter[str] = Counter()

    def look(self, figures: dict[str, float]) -> list[str]:
        """Judge the figures of one look; return what is to be said, a text for each
        kind of remedy.

        Args:
            figures: ``std_p5``, ``rank_p5``, ``ce_p5`` and so on, with ``target_``
                before those of the target, and ``chance``. Others are passed over.
        """
        complaints: dict[str, list[str]] = {}
        for name, bad, limit, remedy in self._judge(figures):
            self.streaks[name] = self.streaks[name] + 1 if bad else 0
            if self.streaks[name] == self.patience:
                level = name.rsplit("_", 1)[1]
                found = f"level {level}: {name} = {figures[name]:.4g} is {limit}"
                complaints.setdefault(remedy, []).append(found)
        return [f"{'; '.join(found)}. {remedy}" for remedy, found in complaints.items()]

    def _judge(self, figures: dict[str, float]) -> Iterator[tuple[str, bool, str, str]]:
        """Each figure's name, whether it is bad, its limit and what to try."""
        limits = {"std": ("min_std", self.min_std), "rank": ("min_rank", self.min_rank)}
        for name, figure in figures.items():
            kind = name.removeprefix("target_").split("_")[0]
            option, limit = limits.get(kind, (None, None))
            if limit is not None:
                # NaN is for NonFiniteLossHook to report.
                yield name, figure < limit, f"below {option} = {limit}", SPREAD_REMEDY
            elif kind == "ce" and "chance" in figures:
                chance, margin = figures["chance"], self.chance_margin
                if margin is not None:
                    text = (
                        f"not chance_margin = {margin} nat below chance = {chance:.4g}"
                    )
                    yield name, chance - figure < margin, text, CHANCE_REMEDY


@HOOKS.register_module()
class EmbeddingMonitorHook(Hook):
    """Log how far the embeddings are spread, and warn when they collapse.

    Every ``interval`` iterations, and at no cost between, it logs for each level
    (:func:`spread`, of both views together, mean over processes):

    - ``std_p5``, ``rank_p5``: of the projector's output, what ``head.loss`` gets,
    - ``target_std_p5``, ``target_rank_p5``: of the targets,
    - ``chance``: ln(number of targets), what ``ce_p5`` is without any learning.

    The projector ends in a batch norm, which keeps ``std`` near 1 until everything
    before it is constant: the rank falls first. Tiles of ratios above 1 can also
    differ by their place on the canvas (the backbone pads its borders), whatever
    they show; that they say nothing of their image, or that the predictor is
    constant, is seen from ``ce`` at chance. A rank cannot exceed the number of
    embeddings of one process, which is twice the batch for images alone.

    Warnings come after ``warmup``, once for each episode (:class:`CollapseAlarm`);
    ``ce`` is averaged since the last look, and judged only where the loss trains it.

    Args:
        interval: iterations between looks; by default those of the run's
            ``LoggerHook``, so that each line of the log has new figures.
        warmup: iterations without a warning; by default a tenth of the run, as
            long as the recipes' learning rates warm up, and at least 500.
        min_std, min_rank, chance_margin, patience: see :class:`CollapseAlarm`.
        stop: whether to end the run instead of going on with a warning.

    Raises:
        InputError: for an option out of its range, and, where ``stop`` is set, when
            a level collapses.
    """

    # After RuntimeInfoHook, which stores ce, before the line of LoggerHook, and
    # before hooks that copy the model, so that no copy has the taps.
    priority = "HIGH"

    def __init__(
        self,
        interval: int | None = None,
        warmup: int | None = None,
        min_std: float | None = 0.3,
        min_rank: float | None = 2.0,
        chance_margin: float | None = 0.02,
        patience: int = 3,
        stop: bool = False,
    ) -> None:
        if interval is not None and interval < 1:
            raise InputError(f"interval={interval}: it is 1 iteration or more")
        if warmup is not None and warmup < 0:
            raise InputError(f"warmup={warmup}: it is 0 iterations or more")
        self.interval = interval
        self.warmup = warmup
        self.stop = stop
        self.alarm = CollapseAlarm(min_std, min_rank, chance_margin, patience)
        self.tap: Tap | None = None

    def before_train(self, runner: Runner) -> None:
        if self.interval is None:
            self.interval = logging_interval(runner)
        if self.warmup is None:
            self.warmup = max(runner.max_iters // 10, MIN_WARMUP)

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self.tap = Tap(unwrap(runner.model))

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        tap, self.tap = self.tap, None
        if tap is None:
            return
        tap.close()
        if not tap.online:
            # MMEngine's logger shows a repeated warning once.
            runner.logger.warning(
                "EmbeddingMonitorHook: the neck's output was not seen, so nothing is "
                "monitored; torch.compile passes over hooks on inner modules"
            )
            return
        names = [level_name(r) for r in unwrap(runner.model).head.ratios]
        figures = self._merge(tap.figures(names), self._cross_entropies(runner, names))
        for name, figure in figures.items():
            if not name.startswith("ce_"):
                runner.message_hub.update_scalar(f"train/{name}", figure)
        # All iterations since the last look are past the warm-up.
        if runner.iter + 1 - self.interval >= self.warmup:
            self._warn(runner, figures)

    def _cross_entropies(self, runner: Runner, names: list[str]) -> dict[str, float]:
        """Mean since the last look of each level's cross-entropy, nat.

        None where the loss does not train it: without negatives it may well rise.
        """
        loss = getattr(unwrap(runner.model).head, "loss_module", None)
        if not getattr(loss, "trains_cross_entropy", True):
            return {}
        store_figures(runner)
        logged = runner.message_hub.log_scalars
        return {
            f"ce_{name}": float(logged[f"train/ce_{name}"].mean(self.interval))
            for name in names
            if f"train/ce_{name}" in logged
        }

    @staticmethod
    def _merge(
        spreads: dict[str, Tensor], others: dict[str, float]
    ) -> dict[str, float]:
        """Mean over the processes, which so come to the same conclusion."""
        device = next(iter(spreads.values())).device
        numbers = torch.tensor(list(others.values()), device=device)
        merged = torch.stack([*spreads.values(), *numbers])
        all_reduce(merged, op="mean")
        return dict(zip([*spreads, *others], merged.tolist(), strict=True))

    def _warn(self, runner: Runner, figures: dict[str, float]) -> None:
        for message in self.alarm.look(figures):
            looks = f"{self.alarm.patience} looks, {self.interval} iterations apart"
            message = f"iteration {runner.iter + 1}, after {looks}: {message}"
            if self.stop:
                raise InputError(f"{message}. EmbeddingMonitorHook.stop ends the run")
            runner.logger.warning(message)
