"""Results of a replication that was never run, for the tests of its document."""

import importlib
import json
import sys

import numpy as np

from .conftest import ROOT

FOLDER = ROOT / "tools/replication"
if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))
collected = importlib.import_module("collected")
tables = importlib.import_module("report_tables")
titles = importlib.import_module("titles")

planned = importlib.import_module("rows")
SUMS = {"val": "ef" * 32}
LOW, HIGH = (0.10, 0.11, 0.105), (0.16, 0.17, 0.165)


def finetuning(labels, seed, ap, **figures):
    return dict(
        labels=labels,
        seed=seed,
        images=5 * labels,
        steps=4 * labels,
        seconds=200.0,
        bbox=ap,
        segm=0.9 * ap,
        curve=[],
        examples=None,
        **figures,
    )


def row(name, aps, few=(), pretraining=None):
    """A result file's content: box AP by seed with all labels, and with few."""
    runs = [finetuning(100, seed, ap) for seed, ap in enumerate(aps)]
    runs += [finetuning(10, seed, ap) for seed, ap in enumerate(few)]
    return dict(
        format=1,
        row=name,
        scale="small",
        config_sha256="ab" * 32,
        data_sha256=planned.data_digest(SUMS),
        machine=dict(
            cpu="A CPU",
            cpu_flags="avx2",
            cores=2,
            gpu=None,
            torch="2.15.0",
            python="3.11.7",
            jobs=2,
            threads=1,
        ),
        pretraining=pretraining,
        finetuning=runs,
    )


def scale(**aps):
    """Results by row (``_`` for ``-``): box AP by seed, or all and few labels."""
    named = {name.replace("_", "-"): values for name, values in aps.items()}
    rows = {}
    for name in titles.NAMES:
        if name in named:
            given = named[name]
            pair = given if isinstance(given, dict) else {100: given}
            rows[name] = row(name, pair.get(100, ()), pair.get(10, ()))
    return collected.Scale("small", rows, {})


def pretraining(name, factor=1.0):
    """Figures that no other part of the results has."""
    return dict(
        config=f"configs/replication/{name}.py",
        steps=round(1575 * factor),
        batch=round(64 * factor),
        images=round(100800 * factor),
        seed=round(7 * factor),
        lr=0.053 * factor,
        knn=0.417 * factor,
        seconds=1413.0 * factor,
        gmac_per_image=0.937 * factor,
        search=[
            dict(
                lr=0.053 * rate * factor,
                steps=round(394 * factor),
                knn=knn * factor,
                seconds=351 * factor,
            )
            for rate, knn in ((0.3, 0.31), (1, 0.42), (3, 0.23))
        ],
        curve=[],
    )


def box(x, score=None, category=1):
    size = [x, 10, 20, 20]
    return [*size, category] if score is None else [*size, score, category]


def full_rows(factor=1.0, seed=0):
    """Five rows with all that a result file can hold."""
    aps = dict(random=0.0712, mcl=0.1137, mocov2=0.0921, densecl=0.0957)
    aps["mcl-quarter"] = 0.0881
    rows, rng = {}, np.random.default_rng(seed)
    for name, ap in aps.items():
        values = ap * factor * (1 + rng.uniform(-0.04, 0.04, (2, 3)))
        length = 0.25 if "quarter" in name else 1
        before = None if name == "random" else pretraining(name, factor * length)
        rows[name] = row(name, values[0].tolist(), (values[1] / 3).tolist(), before)
        for k, run in enumerate(rows[name]["finetuning"]):
            others = (figure for figure, _ in tables.MORE_FIGURES)
            run |= {f: run["bbox"] * (1.3 + 0.1 * i) for i, f in enumerate(others)}
            run["curve"] = [dict(step=s, bbox=s * run["bbox"]) for s in (0.5, 1)]
            found = [dict(image_id=i, boxes=[box(12, 0.9)]) for i in (3, 4)]
            run["examples"] = found if k == 0 else None
    return rows


def full_data(factor=1.0):
    card = dict(
        options=dict(
            pretrain=round(10117 * factor),
            object_size=round(97 * factor),
            scene_size=round(131 * factor),
            objects=round(17 * factor),
            distractors=round(23 * factor),
            smallest=0.0137 * factor,
            main=0.0613 * factor,
            split_cutouts=True,
            cutouts=None,
        ),
        images=dict(
            pretrain=round(10117 * factor),
            val=round(517 * factor),
            probe=round(823 * factor),
        ),
        objects=dict(val=round(1493 * factor)),
        categories=["bird", "tree"],
        grounds=["train/a", "train/b", "val/c"],
        versions=dict(numpy="2.2.6"),
        sha256=SUMS,
    )
    examples = [dict(image_id=i, boxes=[box(10)]) for i in (3, 4)]
    return dict(card=card, scene_size=round(131 * factor), examples=examples)


def write(root, rows, data=None, notes=None, name="small"):
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    for key, content in rows.items():
        (folder / f"{key}.json").write_text(json.dumps(dict(content, scale=name)))
    if data:
        (folder / "data.json").write_text(json.dumps(data))
    if notes:
        (folder / "notes.md").write_text(notes)
    return root
