"""What a replication consists of: its scales, its rows, and their configs."""

import copy
import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from mmengine.config import Config

from mcl.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs/replication"
DETECTOR = CONFIGS / "mask-rcnn.py"
# Where the configs read the data set's folder from.
DATA_VARIABLE = "REPLICATION_DATA"
# The search of the learning rate: factors on the config's, at a part of the length.
FACTORS = (1 / 3, 1, 3)
SEARCH_LENGTH = 0.25
SEARCH_SEED = 0


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        config: of the pre-training, under configs/replication; None: random start.
        of: the row whose pre-training is taken instead of an own one.
        transfer: what of the pre-trained model the detector starts from:
            ``detector`` (backbone, FPN, box-head convs) or ``backbone``.
        quarter: take the search's run with the chosen learning rate, which is a whole
            schedule of a quarter of the length.
        like: pre-train for as many multiply-adds as this row.
        batch: images of a step, by those of the other rows.
    """

    config: str | None = None
    of: str | None = None
    transfer: str = "backbone"
    quarter: bool = False
    like: str | None = None
    batch: float = 1.0


# In the order in which they are run: the main claims first.
ROWS = {
    "random": Row(),
    "mcl": Row("mcl.py", transfer="detector"),
    "mocov2": Row("mocov2.py"),
    "mcl-backbone": Row(of="mcl"),
    "mcl-sup": Row("mcl-sup.py", transfer="detector"),
    "densecl": Row("densecl.py"),
    "mcl-quarter": Row(of="mcl", transfer="detector", quarter=True),
    "mocov2-quarter": Row(of="mocov2", quarter=True),
    "sup": Row("sup.py"),
    "byol": Row("byol.py"),
    "mcl-level1": Row("mcl-level1.py", transfer="detector"),
    "mcl-level1-backbone": Row(of="mcl-level1"),
    "mcl-crops": Row("mcl-crops.py", transfer="detector"),
    "mcl-full": Row("mcl-full.py", transfer="detector"),
    "mocov2-compute": Row("mocov2.py", like="mcl"),
    "mcl-half-batch": Row("mcl.py", transfer="detector", batch=0.5),
    "mcl-sup-compute": Row("mcl-sup.py", transfer="detector", like="mcl"),
}


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        data: options of tools/scenes/make_scenes.py.
        finetuning: per cent of the labels -> iterations.
        seeds: of fine-tuning.
        pretrainings: of a row, with the seeds from 0 on; the fine-tunings start from
            them in turn.
        cycles: of a pre-training, each as long as the row says (warm restarts, arXiv
            1608.03983). One starts from the weights of the cycle before, schedules and
            optimizer begin anew, and images come in another order, in other views.
            More than one needs ``rates``, and not BYOL: the schedule of MMPretrain's
            average would go on where it ended.
        rates: learning rate by pre-training config. Where there are some, nothing is
            searched.
        rows: names of those that can be run. With rates, none of a quarter of the
            length or of equal work: a search is what both start from.
        evaluations: of a fine-tuning with all labels, in equal parts of its length.
        pretraining, detector: overrides of the configs, which are those of ``small``.
        methods: more overrides of pre-training configs, by how their names begin.
    """

    data: dict
    finetuning: dict
    seeds: tuple = (0, 1, 2)
    pretrainings: int = 1
    cycles: int = 1
    rates: dict = field(default_factory=dict)
    rows: tuple = tuple(ROWS)
    evaluations: int = 4
    pretraining: dict = field(default_factory=dict)
    detector: dict = field(default_factory=dict)
    methods: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cycles > 1 and not self.rates:
            raise InputError(f"cycles={self.cycles}: give the scale's rates, too")
        if self.cycles > 1 and "byol.py" in self.rates:
            raise InputError(f"cycles={self.cycles}: leave byol.py out of the rates")

    def pretraining_seed(self, seed: int) -> int:
        """Of the pre-training that a seed of fine-tuning starts from."""
        return seed % self.pretrainings

    def cycle_seed(self, seed: int, cycle: int) -> int:
        """Of a cycle of a pre-training, the first being cycle 0."""
        return seed + cycle * self.pretrainings


PIPELINE = "train_dataloader.dataset.dataset.pipeline"
CROPS_OF_128 = {
    "model.neck.in_channels": 512,
    f"{PIPELINE}.1.transforms.0.0.scale": 128,
    f"{PIPELINE}.1.transforms.0.3.magnitude_range": (0.06, 1.15),
}
OBJECTS = dict(
    split_cutouts=True,
    # Stickers for another picture, and a glow: no objects by themselves.
    leave_out="vehicle/sedan_police,christmas/lamp",
    objects=8,
    distractors=3,
    smallest=0.13,
    main=0.6,
    seed=0,
)
SMALL = dict(
    pretrain=10064,
    probe=816,
    train=2000,
    val=500,
    object_size=96,
    scene_size=128,
    **OBJECTS,
)
# Which of small's differences remain over several pre-trainings. MoCo v2, DenseCL and
# supervised MCL have the rates of their searches in small; the rows that change a part
# of MCL have MCL's, so that they differ in this part alone.
SEEDS = Scale(
    SMALL,
    finetuning={100: 400},
    seeds=tuple(range(9)),
    pretrainings=3,
    rates={
        "mcl.py": 3e-3,
        "mcl-crops.py": 3e-3,
        "mcl-level1.py": 3e-3,
        "mcl-full.py": 3e-3,
        "mcl-sup.py": 1e-3,
        "mocov2.py": 3.3e-4,
        "densecl.py": 3.3e-4,
    },
    rows=(
        "random",
        "mcl",
        "densecl",
        "mcl-backbone",
        "mcl-crops",
        "mcl-level1",
        "mocov2",
        "mcl-full",
        "mcl-sup",
    ),
    evaluations=1,
)

SCALES = {
    # Two CPU cores: what the configs say. How the length of fine-tuning was chosen is
    # told in docs/replication/results/small/notes.md.
    "small": Scale(SMALL, finetuning={100: 400, 10: 400}),
    "small-seeds": SEEDS,
    # Whether MCL's lead is one of short fine-tunings alone.
    "small-longer": replace(
        SEEDS,
        finetuning={100: 800},
        rows=("random", "mcl", "mocov2", "densecl", "mcl-sup"),
    ),
    # Whether MCL, whose pre-trainings differ in how far they came, gains more than
    # DenseCL by as many steps again.
    "small-restart": replace(
        SEEDS,
        finetuning={100: 800},
        seeds=tuple(range(6)),
        cycles=2,
        rows=("random", "mcl", "mocov2", "densecl"),
    ),
    # One GPU: a whole ResNet-18, larger pictures, 40 passes over six times the images.
    # Lengths and learning rates were not tried yet.
    "medium": Scale(
        data=dict(
            pretrain=60112,
            probe=816,
            train=3000,
            val=2000,
            object_size=160,
            scene_size=320,
            **OBJECTS,
        ),
        finetuning={100: 4000, 10: 1000},
        pretraining={
            "size": 128,
            "train_dataloader.batch_size": 256,
            "train_dataloader.num_workers": 12,
            "train_dataloader.pin_memory": True,
            "train_cfg.max_iters": 9450,
            "model.backbone.stem_channels": 64,
            "model.backbone.base_channels": 64,
        },
        detector={
            "model.backbone.stem_channels": 64,
            "model.backbone.base_channels": 64,
            "model.neck.in_channels": [64, 128, 256, 512],
            "model.rpn_head.anchor_generator.scales": [8],
            "train_dataloader.batch_size": 16,
            "train_dataloader.num_workers": 8,
            "val_dataloader.num_workers": 4,
        },
        methods={
            "mcl": {
                "model.data_preprocessor.montage.size": 128,
                "model.neck.in_channels": [64, 128, 256, 512],
                f"{PIPELINE}.1.size": 128,
                f"{PIPELINE}.1.blur_sigma": (0.06, 1.15),
            },
            "mocov2": CROPS_OF_128 | {"model.queue_len": 256},
            "densecl": CROPS_OF_128 | {"model.queue_len": 256},
            "byol": CROPS_OF_128,
            "sup": {"model.head.in_channels": 512, f"{PIPELINE}.1.scale": 128},
        },
    ),
}


def read_config(path: Path) -> Config:
    """A config of its own, of a file that is parsed once: plans ask for it often."""
    return copy.deepcopy(parse(path, os.environ.get(DATA_VARIABLE)))


@cache
def parse(path: Path, data: str | None) -> Config:
    """A config file; ``data``, what its environment has, only tells parses apart."""
    return Config.fromfile(path)


def pretraining_config(
    row: Row,
    scale: Scale,
    lr: float | None,
    steps: int,
    seed: int = SEARCH_SEED,
) -> Config:
    """The config of a pre-training of ``steps`` iterations; ``lr`` None: its own."""
    path = CONFIGS / row.config
    cfg = read_config(path)
    batch = round(batch_size(scale) * row.batch)
    overrides = dict(scale.pretraining)
    for key in ("train_dataloader", "train_dataloader.sampler"):
        overrides[f"{key}.batch_size"] = batch
    for name, changes in scale.methods.items():
        if path.stem.partition("-")[0] == name:
            overrides.update(changes)
    cfg.merge_from_dict(overrides)
    set_length(cfg, steps, warmup=steps // 20)
    cfg.default_hooks.checkpoint.interval = max(1, steps // 4)
    if lr is not None:
        cfg.optim_wrapper.optimizer.lr = lr
    cfg.randomness = dict(seed=seed)
    return cfg


def batch_size(scale: Scale) -> int:
    """Images of a step, of rows that do not change it."""
    cfg = read_config(CONFIGS / "mcl.py")
    own = cfg.train_dataloader.batch_size
    return scale.pretraining.get("train_dataloader.batch_size", own)


def full_length(row: Row, scale: Scale) -> int:
    """Iterations of a row's pre-training: all rows see equally many images."""
    own = read_config(CONFIGS / "mcl.py").train_cfg.max_iters
    return round(scale.pretraining.get("train_cfg.max_iters", own) / row.batch)


def leaves_unread(row: Row) -> bool:
    """Whether a row's pre-training reads fewer maps than its pyramid has."""
    neck = read_config(CONFIGS / row.config).model.neck
    return len(neck.ratios) < len(neck.in_channels)


def detector_config(scale: Scale, labels: int, seed: int) -> Config:
    """The config of a fine-tuning with ``labels`` per cent of the labels."""
    cfg = read_config(DETECTOR)
    cfg.merge_from_dict(scale.detector)
    side = scale.data["scene_size"]
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for step in cfg[loader].dataset.pipeline:
            if step.type == "Resize":
                step.scale = (side, side)
    steps = scale.finetuning[labels]
    set_length(cfg, steps, warmup=50)
    # AP on the way is for the curve, and it costs time: with all labels only.
    parts = scale.evaluations if labels == 100 else 1
    cfg.train_cfg.val_interval = max(1, steps // parts)
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=-1)
    if labels < 100:
        cfg.train_dataloader.dataset.ann_file = label_file(labels, seed)
    cfg.randomness = dict(seed=seed)
    return cfg


def label_file(labels: int, seed: int) -> str:
    """Where, in the data set, a part of the labels is; each seed draws its own."""
    return f"annotations/train.seed{seed}@{labels}.json"


def set_length(cfg: Config, steps: int, warmup: int) -> None:
    """Let a run last ``steps`` iterations: linear warm-up, then cosine."""
    cfg.train_cfg.max_iters = steps
    cfg.param_scheduler[0].end = max(1, warmup)
    cfg.param_scheduler[1].T_max = cfg.param_scheduler[1].end = steps


def data_digest(sums: dict[str, str]) -> str:
    """SHA-256 of the checksums of a data set's parts."""
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def describe(cfg: Config) -> str:
    """What of a config decides figures, wherever the data set is, as a text."""
    content = cfg.to_dict()
    for name in ("default_hooks", "log_processor", "visualizer", "vis_backends"):
        content.pop(name, None)
    text = json.dumps(content, sort_keys=True, default=repr)
    folder = json.dumps(os.environ.get(DATA_VARIABLE, "\0"))[1:-1]
    return text.replace(folder, "")
