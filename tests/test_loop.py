"""How long a run is: epochs, schedule, batch size, old and new ways to say it."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn

from mcl.checks import check_loop
from mcl.config import adapt_to_cpu, merge_options, share_batch_size
from mcl.datasets import ReplayableSampler
from mcl.engine import MCLTrainLoop, OptimStepParamSchedulerHook
from mcl.errors import InputError
from mcl.models import MCL, build_preprocessor

from .conftest import TINY, shrunk_config, shrunk_model

OPEN = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False),
    dict(type="CosineAnnealingLR", by_epoch=False),
]


def run(folder, work_dir, **overrides) -> Runner:
    return start(shrunk_config(folder, **overrides), work_dir)


def start(cfg: Config, work_dir) -> Runner:
    adapt_to_cpu(cfg)
    cfg.work_dir = cfg.visualizer.name = cfg.experiment_name = str(work_dir)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_epochs_of_a_folder(image_folder, tmp_path):
    """24 images, batches of 8: three iterations an epoch, two for an optimizer step."""
    overrides = {
        "train_cfg.max_iters": None,
        "train_cfg.max_epochs": 4,
        "default_hooks.param_scheduler.warmup_steps": None,
        "default_hooks.param_scheduler.warmup_epochs": 2,
        "optim_wrapper.accumulative_counts": 2,
        "default_hooks.checkpoint.interval": 6,
    }
    runner = run(image_folder, tmp_path, **overrides)
    assert runner.iter == runner.max_iters == 12
    assert runner.model.target.step == 6
    linear, cosine = runner.param_schedulers
    # 2 epochs x 24 images / (8 x 2) = 3 steps
    assert (linear.total_iters, linear.end, cosine.T_max, cosine.end) == (3, 4, 6, 6)
    assert runner.train_dataloader.sampler.per_epoch == 24


def test_given_ends_stay_and_open_ones_are_those_of_the_run():
    hook = OptimStepParamSchedulerHook(warmup_steps=5)
    given = [dict(OPEN[0], end=3), dict(OPEN[1], end=7, T_max=7)]
    for configs, ends in ((OPEN, [6, 20]), (given, [3, 7])):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
        schedulers = [
            PARAM_SCHEDULERS.build(dict(c), default_args=dict(optimizer=optimizer))
            for c in configs
        ]
        runner = SimpleNamespace(
            cfg=Config(
                dict(optim_wrapper=dict(accumulative_counts=2), param_scheduler=configs)
            ),
            logger=SimpleNamespace(info=print),
            max_iters=39,
            param_schedulers=schedulers,
            train_dataloader=SimpleNamespace(batch_size=2, dataset=range(10)),
            world_size=1,
        )
        hook.before_run(runner)
        assert [s.end for s in schedulers] == ends
        assert schedulers[1].T_max == ends[1]


@pytest.mark.parametrize("warmup", [dict(warmup_epochs=0.1), dict(warmup_steps=0)])
def test_a_warm_up_of_no_step_ends_at_the_full_rate(warmup, image_folder, tmp_path):
    """The host's scheduler would stay at its first factor."""
    options = {f"default_hooks.param_scheduler.{k}": v for k, v in warmup.items()}
    runner = run(
        image_folder,
        tmp_path,
        **{
            "default_hooks.param_scheduler.warmup_steps": None,
            **options,
            "param_scheduler": OPEN[:1],
            "train_cfg.max_iters": 2,
        },
    )
    rates = runner.optim_wrapper.get_lr()["lr"]
    assert rates == pytest.approx([1e-3] * len(rates))


@pytest.mark.parametrize(
    "lengths", [{}, dict(max_iters=4, max_epochs=2), dict(max_epochs=0)]
)
def test_exactly_one_length(lengths):
    with pytest.raises(InputError, match="train_cfg: max_epochs="):
        MCLTrainLoop(None, None, **lengths)


def test_a_length_on_the_command_line_replaces_the_other():
    cfg = Config.fromfile(TINY)
    merge_options(cfg, {"train_cfg.max_epochs": 3})
    assert cfg.train_cfg == dict(type="MCLTrainLoop", max_epochs=3)


def test_a_loop_of_epochs_names_its_replacement(tmp_path):
    with pytest.raises(InputError, match="MCLTrainLoop"):
        ReplayableSampler(range(24))
    loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    runner = SimpleNamespace(train_loop=loop, max_epochs=5)
    with pytest.raises(InputError, match="EpochBased.*MCLTrainLoop"):
        OptimStepParamSchedulerHook().before_train(runner)
    cfg = Config.fromfile(TINY)
    cfg.train_cfg.update(type="EpochBasedTrainLoop", max_epochs=2)
    with pytest.raises(InputError, match="EpochBased.*MCLTrainLoop"):
        check_loop(cfg)


def test_warm_ups_that_cannot_be_are_named():
    with pytest.raises(InputError, match="warmup_epochs=1 and warmup_steps=2"):
        OptimStepParamSchedulerHook(1, 2)
    runner = SimpleNamespace(cfg=Config(dict(optim_wrapper={})))
    with pytest.raises(InputError, match="LinearLR has no end"):
        OptimStepParamSchedulerHook()._warmup(runner)


# --- one source for one fact


def test_the_sampler_gets_the_loaders_batch_size():
    sampler = dict(type="ReplayableSampler", shuffle=True)
    loader = dict(batch_size=6, sampler=sampler)
    assert share_batch_size(loader)["sampler"] == dict(sampler, batch_size=6)
    assert "batch_size" not in sampler
    assert share_batch_size(dict(loader, sampler=dict(sampler, batch_size=6)))
    with pytest.raises(InputError, match="batch_size=6, .*sampler.batch_size=8: these"):
        share_batch_size(dict(loader, sampler=dict(sampler, batch_size=8)))
    other = dict(batch_size=6, sampler=dict(type="DefaultSampler", shuffle=True))
    assert share_batch_size(other) == other


OLD = {
    "data_preprocessor.montage.size": 64,
    "data_preprocessor.montage.ratios": (1, 2),
    "neck.ratios": [1, 2],
    "head.ratios": (1, 2),
    "head.loss.level_weights": (1, 1),
}


def test_old_keys_still_work_where_they_are_equal():
    model = shrunk_model(size=None, ratios=None, **OLD)
    montage = model.data_preprocessor.montage
    assert (montage.size, montage.ratios) == (64, (1, 2))
    assert model.neck.ratios == model.head.ratios == (1, 2)
    assert shrunk_model(size=64, ratios=(1, 2), **OLD).head.ratios == (1, 2)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("size", 32, "model.size=32, .*montage.size=64: these are one setting"),
        ("ratios", (1, 4), "model.ratios=.1, 4., model.data_prepro.*neck.ratios=.1, 2"),
        ("neck.ratios", (1, 8), "montage.ratios=.1, 2., model.neck.ratios=.1, 8."),
    ],
)
def test_old_keys_are_refused_where_they_differ(key, value, words):
    with pytest.raises(InputError, match=words):
        shrunk_model(**{"size": None, "ratios": None, **OLD, key: value})


def test_defaults_and_the_preprocessor_alone():
    cfg = Config.fromfile(TINY).model
    cfg.pop("ratios")
    montage = build_preprocessor(cfg).montage
    assert (montage.size, montage.ratios) == (64, (1, 2, 4, 8))
    assert isinstance(shrunk_model(ratios=None), MCL)


def test_an_older_config_trains_the_same(image_folder, tmp_path):
    """Every number in each place, the host's loop, ends given, British spelling."""
    length = {"train_cfg.max_iters": 4}
    new = run(image_folder, tmp_path / "new", **length)
    ratios = dict(ratios=(1, 2, 4, 8))
    cfg = shrunk_config(image_folder, **length)
    cfg.model.update(size=None, ratios=None)
    cfg.model.data_preprocessor.montage.update(size=32, **ratios)
    cfg.model.neck.update(ratios)
    cfg.model.head.update(ratios)
    cfg.train_dataloader.sampler.batch_size = 8
    views = cfg.train_dataloader.dataset.dataset.pipeline[1]
    views["colours_on"] = views.pop("colors_on")
    cfg.param_scheduler[0].update(begin=0, end=51)
    cfg.param_scheduler[1].update(begin=0, end=4, T_max=4)
    cfg.default_hooks.param_scheduler = dict(type="OptimStepParamSchedulerHook")
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=4)
    old = start(cfg, tmp_path / "old")
    for name, weight in new.model.state_dict().items():
        assert torch.equal(weight, old.model.state_dict()[name]), name


def test_what_a_longer_run_resumes_is_said(image_folder, tmp_path):
    """The schedule comes from the checkpoint: its rate would stay at the end."""
    short = run(image_folder, tmp_path / "w", **{"train_cfg.max_iters": 2})
    assert "2 iterations, 2 optimizer steps of 8 images" in logged(tmp_path / "w")
    assert "the warm-up is longer than the run of 2 steps" in logged(tmp_path / "w")
    ends = [s.end for s in short.param_schedulers]
    resumed = {"train_cfg.max_iters": 3, "resume": True}
    resumed["load_from"] = f"{tmp_path}/w/iter_2.pth"
    longer = run(image_folder, tmp_path / "longer", **resumed)
    assert [s.end for s in longer.param_schedulers] == ends == [51, 2]
    assert "end at steps [51, 2], those of this config at [51, 3]" in logged(
        tmp_path / "longer"
    )


def logged(work_dir) -> str:
    return "".join(file.read_text() for file in work_dir.glob("*/*.log"))
