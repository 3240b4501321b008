"""What the replication consists of: its rows, its scales, and their configs."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmengine.config import Config

ROOT = Path(__file__).parents[2]
CONFIGS = Path(__file__).parent / "configs"
RESULTS = Path(__file__).parent / "results"
# Where the configs read the data set's folder from.
DATA_VARIABLE = "REPLICATION_DATA"
# The search of the learning rate: factors on the config's, at a part of the length.
FACTORS = (1 / 3, 1, 3)
SEARCH_LENGTH = 0.25


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    title: str
    config: str | None = None  # of the pre-training; None: random start, or `of`
    of: str | None = None  # the row whose pre-training is taken
    detector: bool = False  # whether FPN and box-head convs are transferred, too
    length: float = 1.0  # images seen, by those of the other rows
    like: str | None = None  # the row that costs as many multiply-adds
    batch: float = 1.0  # images of a step, by those of the other rows


ROWS = {
    "random": Row("random start"),
    "mcl": Row("MCL", "mcl.py", detector=True),
    "mocov2": Row("MoCo v2", "mocov2.py"),
    "densecl": Row("DenseCL", "densecl.py"),
    "byol": Row("BYOL", "byol.py"),
    "sup": Row("supervised classification", "sup.py"),
    "mcl-sup": Row("supervised MCL", "mcl-sup.py", detector=True),
    "mcl-sup-compute": Row(
        "supervised MCL, MCL's compute", "mcl-sup.py", detector=True, like="mcl"
    ),
    "mocov2-compute": Row("MoCo v2, MCL's compute", "mocov2.py", like="mcl"),
    "mcl-backbone": Row("MCL, backbone alone", of="mcl"),
    "mcl-level1": Row("MCL, one level", "mcl-level1.py", detector=True),
    "mcl-level1-backbone": Row("MCL, one level, backbone alone", of="mcl-level1"),
    "mcl-crops": Row("MCL, stacked crops", "mcl-crops.py", detector=True),
    "mcl-full": Row("MCL, full computation", "mcl-full.py", detector=True),
    "mcl-half-batch": Row("MCL, half the batch", "mcl.py", detector=True, batch=0.5),
    "mcl-quarter": Row("MCL, quarter length", "mcl.py", detector=True, length=0.25),
    "mocov2-quarter": Row("MoCo v2, quarter length", "mocov2.py", length=0.25),
}


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    A cycle of pre-training after the first starts from the weights of the one before;
    schedules and optimizer begin anew (warm restarts, arXiv 1608.03983). BYOL's average
    would go on where it ended, so it has one cycle only.
    """

    data: str  # one of DATA
    finetuning: dict  # per cent of the labels -> iterations
    seeds: tuple = (0, 1, 2)  # of fine-tuning; they take the pre-trainings in turn
    pretrainings: int = 1  # of a row, with the seeds from 0 on
    cycles: int = 1  # of a pre-training, each as long as the row says
    first_cycles: str | None = None  # the scale that has the first ones; None: this one
    rates: dict = field(default_factory=dict)  # by config; empty: they are searched
    rows: tuple = tuple(ROWS)  # that can be run; with rates, none that needs a search
    evaluations: int = 4  # of a fine-tuning with all labels
    pretraining: dict = field(default_factory=dict)  # overrides of configs
    methods: dict = field(default_factory=dict)  # the same, by how their names begin
    detector: dict = field(default_factory=dict)  # overrides of mask-rcnn.py


# The cut-outs left out are stickers for another picture, and a glow.
SCENES = dict(split_cutouts=True, leave_out="vehicle/sedan_police,christmas/lamp")
SCENES |= dict(objects=8, distractors=3, smallest=0.13, main=0.6, seed=0)
# Options of make_scenes.
DATA = dict(
    small=dict(pretrain=10064, probe=816, train=2000, val=500)
    | dict(object_size=96, scene_size=128, **SCENES),
    medium=dict(pretrain=60112, probe=816, train=3000, val=2000)
    | dict(object_size=160, scene_size=320, **SCENES),
)

# MoCo v2, DenseCL and supervised MCL have the rates of their searches in small. Rows
# that change a part of MCL have MCL's, to differ in this part alone.
SEEDS = Scale(
    "small",
    finetuning={100: 400},
    seeds=tuple(range(9)),
    pretrainings=3,
    rates={"mcl.py": 3e-3, "mcl-level1.py": 3e-3, "mcl-crops.py": 3e-3}
    | {"mcl-full.py": 3e-3, "mcl-sup.py": 1e-3}
    | {"mocov2.py": 3.3e-4, "densecl.py": 3.3e-4},
    rows=("random", "mcl", "mocov2", "densecl", "mcl-sup", "mcl-backbone")
    + ("mcl-level1", "mcl-crops", "mcl-full"),
    evaluations=1,
)

# Of medium: a whole ResNet-18, and crops of 128 pixels.
WIDE = {"model.backbone.stem_channels": 64, "model.backbone.base_channels": 64}
CHANNELS = {"model.neck.in_channels": [64, 128, 256, 512]}
PIPELINE = "train_dataloader.dataset.dataset.pipeline.1"
CROPS = {
    "model.neck.in_channels": 512,
    f"{PIPELINE}.transforms.0.0.scale": 128,
    f"{PIPELINE}.transforms.0.3.magnitude_range": (0.06, 1.15),
}

SCALES = {
    # Two CPU cores: what the configs say.
    "small": Scale("small", finetuning={100: 400, 10: 400}),
    # Which of small's differences remain over several pre-trainings.
    "small-seeds": SEEDS,
    # Whether MCL's lead is one of short fine-tunings alone.
    "small-longer": replace(
        SEEDS,
        finetuning={100: 800},
        first_cycles="small-seeds",
        rows=("random", "mcl", "mocov2", "densecl", "mcl-sup"),
    ),
    # Whether MCL gains more than DenseCL by as many steps again.
    "small-restart": replace(
        SEEDS,
        finetuning={100: 800},
        seeds=tuple(range(6)),
        cycles=2,
        first_cycles="small-seeds",
        rows=("random", "mcl", "mocov2", "densecl"),
    ),
    # One GPU: 40 passes over six times the images. Not tried yet.
    "medium": Scale(
        "medium",
        finetuning={100: 4000, 10: 1000},
        pretraining={
            "size": 128,
            "train_dataloader.batch_size": 256,
            "train_dataloader.num_workers": 12,
            "train_dataloader.pin_memory": True,
            "train_cfg.max_iters": 9450,
        }
        | WIDE,
        detector=WIDE
        | CHANNELS
        | {
            "model.rpn_head.anchor_generator.scales": [8],
            "train_dataloader.dataset.pipeline.2.scale": (320, 320),
            "val_dataloader.dataset.pipeline.1.scale": (320, 320),
            "test_dataloader.dataset.pipeline.1.scale": (320, 320),
            "train_dataloader.batch_size": 16,
            "train_dataloader.num_workers": 8,
            "val_dataloader.num_workers": 4,
        },
        methods={
            "mcl": CHANNELS
            | {
                "model.size": 128,
                f"{PIPELINE}.size": 128,
                f"{PIPELINE}.blur_sigma": (0.06, 1.15),
            },
            **dict.fromkeys(("mocov2", "densecl", "byol"), CROPS),
            "sup": {"model.head.in_channels": 512, f"{PIPELINE}.scale": 128},
        },
    ),
}


def pretraining_config(row: Row, scale: Scale, seed: int = 0) -> Config:
    """The config of a row's pre-training, or of a cycle of it."""
    cfg = Config.fromfile(CONFIGS / row.config)
    method = row.config.removesuffix(".py").partition("-")[0]
    cfg.merge_from_dict(scale.pretraining | scale.methods.get(method, {}))
    loader = cfg.train_dataloader
    loader.batch_size = round(loader.batch_size * row.batch)
    set_length(cfg, round(cfg.train_cfg.max_iters * row.length / row.batch))
    cfg.randomness = dict(seed=seed)
    return cfg


def set_length(cfg: Config, steps: int, warmup: int | None = None) -> None:
    """Let a run last ``steps`` iterations: linear warm-up, then cosine."""
    cfg.train_cfg.max_iters = steps
    cfg.param_scheduler[0].end = warmup or max(1, steps // 20)
    cfg.param_scheduler[1].T_max = cfg.param_scheduler[1].end = steps
    cfg.default_hooks.checkpoint.interval = max(1, steps // 4)


def detector_config(scale: Scale, labels: int, seed: int) -> Config:
    """The config of a fine-tuning with ``labels`` per cent of the labels."""
    cfg = Config.fromfile(CONFIGS / "mask-rcnn.py")
    cfg.merge_from_dict(scale.detector)
    steps = scale.finetuning[labels]
    set_length(cfg, steps, warmup=50)
    cfg.train_cfg.val_interval = steps
    if labels == 100:  # AP on the way is for the curve and costs time
        cfg.train_cfg.val_interval = max(1, steps // scale.evaluations)
    else:
        part = f"annotations/train.seed{seed}@{labels}.json"
        cfg.train_dataloader.dataset.ann_file = part
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=-1)
    cfg.randomness = dict(seed=seed)
    return cfg


def digest(content: dict, without: str = "") -> str:
    """SHA-256 (hex) of a dict of plain values, less a text such as a folder."""
    text = json.dumps(content, sort_keys=True, default=repr, ensure_ascii=False)
    return hashlib.sha256(text.replace(without, "").encode()).hexdigest()
