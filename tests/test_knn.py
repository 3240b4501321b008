"""Nearest neighbors on labeled images: the vote, the features, the hook in a run."""

import json
import logging
import math
import random
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mcl.config import adapt_to_cpu
from mcl.engine import KNNHook
from mcl.engine.knn import knn_vote, undisturbed
from mcl.errors import InputError

from .conftest import PRETRAINING, ROOT, shrunk_config, shrunk_model

COLORS = dict(blue=(20, 30, 220), green=(30, 200, 40), red=(220, 30, 20))
KEYS = {"knn_backbone", "knn_p5"}
FRAGMENT = ROOT / "configs/_base_/knn_monitor.py"


def write_classes(root, number, noise):
    """A folder for each color with images of about that color; odd sizes."""
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(number):
            pixels = rng.normal(color, noise, (50, 41 + i, 3)).clip(0, 255)
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(root / name / f"{i}.png")


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    """``train`` of 3 x 7 and ``val`` of 3 x 3 plain colors, one class each."""
    root = tmp_path_factory.mktemp("labeled")
    write_classes(root / "train", 7, noise=4)
    write_classes(root / "val", 3, noise=4)
    return root


def hook_for(root, model=None, **options) -> KNNHook:
    """The hook, its parts built for this model."""
    options = (
        dict(train=str(root / "train"), val=str(root / "val"), k=5, num_workers=0)
        | options
    )
    hook = KNNHook(**options)
    runner = type("Runner", (), dict(model=model or shrunk_model()))
    hook.before_train(runner)
    return hook


def vote_by_hand(queries, bank, labels, k, temperature) -> list[int]:
    predictions = []
    for query in queries.tolist():
        cosines = [sum(a * b for a, b in zip(query, x, strict=True)) for x in bank]
        nearest = sorted(range(len(cosines)), key=lambda i: -cosines[i])[:k]
        votes = {}
        for i in nearest:
            weight = math.exp(cosines[i] / temperature)
            votes[labels[i]] = votes.get(labels[i], 0) + weight
        predictions.append(max(votes, key=votes.get))
    return predictions


@pytest.mark.parametrize(
    "k, temperature", [(1, 0.07), (20, 0.07), (7, 1.0), (60, 0.02)]
)
def test_votes_are_the_formula(k, temperature, monkeypatch):
    monkeypatch.setattr("mcl.engine.knn.CHUNK", 16)  # 50 queries: the last is short
    rows = nn.functional.normalize(torch.randn(110, 6, dtype=torch.float64), dim=1)
    labels = torch.randint(0, 4, (60,))
    expected = vote_by_hand(
        rows[:50], rows[50:].tolist(), labels.tolist(), k, temperature
    )
    found = knn_vote(rows[:50], rows[50:], labels, k, temperature)
    assert found.tolist() == expected


def test_a_near_neighbor_outvotes_two_far_ones():
    bank = nn.functional.normalize(torch.tensor([[1, 0.1], [0, 1.0], [0.1, 1]]), dim=1)
    labels, query = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_vote(query, bank, labels, k=3, temperature=0.07) == 0
    assert knn_vote(query, bank, labels, k=3, temperature=100.0) == 1


def test_classes_of_one_color_are_told_apart(labeled):
    model = shrunk_model()
    scores = hook_for(labeled, model).evaluate(model)
    assert scores == dict(knn_backbone=1.0, knn_p5=1.0)


def test_features_are_those_of_the_online_network_alone(labeled, monkeypatch):
    """By hand from the files: RGB, center crop, evaluation mode; votes by hand."""
    model = shrunk_model().train()
    for part in (model.backbone, model.neck):
        for module in part.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
    seen = []

    def watch(queries, bank, labels, k, temperature):
        seen.append((queries, bank, labels))
        return knn_vote(queries, bank, labels, k, temperature)

    monkeypatch.setattr("mcl.engine.knn.knn_vote", watch)
    hook_for(labeled, model, batch_size=4).evaluate(model)
    file = labeled / "val" / "green" / "1.png"
    image = Image.open(file).resize((36, 50 * 36 // 42), Image.Resampling.BILINEAR)
    left, top = (image.width - 32) // 2, (image.height - 32) // 2
    pixels = np.array(image.crop((left, top, left + 32, top + 32)))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.no_grad():
        model.eval()
        bgr = dict(inputs=tensor.flip(1))  # as loaders give it
        maps = model(model.data_preprocessor(bgr)["inputs"])
        p5 = model.neck.shared_convs(model.neck.pyramid(maps)[-1])
        embedding = model.neck(maps, [1])[0]
        assert torch.equal(embedding, model.neck.projector((p5,))[0])
    for found, features in zip(seen, (maps[-1], p5), strict=True):
        expected = nn.functional.normalize(features.mean((2, 3)), dim=1)
        # files are sorted: three of blue, then three of green
        torch.testing.assert_close(found[0][4:5], expected, rtol=1e-4, atol=1e-5)
        assert found[2].tolist() == [0] * 7 + [1] * 7 + [2] * 7


def test_a_data_set_config_and_fewer_images(labeled):
    files = [f"{c}/{i}.png {label}" for label, c in enumerate(COLORS) for i in range(3)]
    (labeled / "list.txt").write_text("\n".join(files))
    val = dict(
        type="CustomDataset",
        data_root=str(labeled),
        data_prefix="val",
        ann_file="list.txt",
        metainfo=dict(classes=tuple(COLORS)),
    )
    model = shrunk_model()
    hook = hook_for(labeled, model, val=val, images_per_class=2, k=2)
    train = hook.parts["train"]
    paths = [train.dataset.dataset.get_data_info(i)["img_path"] for i in train.indices]
    assert [p.split("train/")[1] for p in paths] == [
        f"{c}/{i}.png" for c in COLORS for i in (0, 3)
    ]
    assert hook.evaluate(model)["knn_backbone"] == 1.0


def test_what_gives_no_score_or_is_replaced_is_said(labeled, tmp_path):
    shutil.copytree(labeled / "val", tmp_path / "val")
    broken = tmp_path / "val" / "red" / "0.png"
    broken.write_bytes(b"no image")
    model, said, scores = shrunk_model(), [], []
    hook = hook_for(labeled, model, val=str(tmp_path / "val"))
    runner = SimpleNamespace(
        iter=4999,
        max_iters=9999,
        model=model,
        logger=SimpleNamespace(
            warning=said.append, log=lambda level, text: said.append((level, text))
        ),
        visualizer=SimpleNamespace(add_scalars=lambda s, step: scores.append(set(s))),
    )
    hook.after_train_iter(runner)
    assert said[0].startswith(f"unreadable image replaced: {broken}")
    level, text = said[1]
    assert level == logging.INFO and "knn_p5: 1.0000" in text
    model.neck.shared_convs[0].bn.running_mean.fill_(math.nan)
    hook.after_train_iter(runner)
    level, text = said[2]
    assert level == logging.WARNING and "knn_backbone: 1.0000" in text
    assert "knn_p5: no score, features are not finite" in text and len(said) == 3
    assert scores == [KEYS, {"knn_backbone"}]


def test_modes_and_generators_are_set_back():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.BatchNorm1d(2)))
    model[1].eval()
    before = [m.training for m in model.modules()]

    def draws():
        return torch.rand(1).item(), np.random.rand(), random.random()

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = draws()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    with pytest.raises(KeyError), undisturbed(model):
        assert not any(m.training for m in model.modules())
        draws()
        raise KeyError
    assert [m.training for m in model.modules()] == before
    assert draws() == expected


def train(work_dir, images, *hooks) -> Runner:
    """Three iterations without IterationSeedHook: montages draw from torch itself."""
    cfg = shrunk_config(
        images, **{"train_cfg.max_iters": 3, "default_hooks.logger.interval": 1}
    )
    adapt_to_cpu(cfg)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = cfg.visualizer.name = str(work_dir)
    cfg.custom_hooks = [dict(type="TargetUpdateHook"), *hooks]
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_training_goes_on_bit_for_bit_and_the_log_has_it(
    tmp_path, image_folder, labeled
):
    folders = dict(train=str(labeled / "train"), val=str(labeled / "val"))
    knn = dict(type="KNNHook", **folders, interval=2, k=3, num_workers=2)
    without = train(tmp_path / "without", image_folder)
    with_it = train(tmp_path / "with", image_folder, knn)
    assert with_it.model.training
    weights = with_it.model.state_dict()
    for name, weight in without.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    (file,) = (tmp_path / "with").glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    scores = {row["step"]: row for row in rows if KEYS <= set(row)}
    assert set(scores) == {2, 3}  # every second iteration, and the last
    assert all(0 <= row[key] <= 1 for row in scores.values() for key in KEYS)
    (log,) = (tmp_path / "with").glob("*/*.log")
    lines = re.findall(r"kNN \[(\d)/3\]  knn_backbone: [\d.]+  knn_p5", log.read_text())
    assert lines == ["2", "3"]


@pytest.mark.parametrize(
    "option, message",
    [
        (dict(train="{}/none"), "KNNHook.train=.*none: there is no such folder"),
        (dict(val="{}/train/red"), "KNNHook.val=.*red: it has no sub-folders"),
        (dict(train="{}/empty"), "KNNHook.train: dataset: Found 0 files"),
        (dict(train="{}/one", val="{}/one"), "one class only, .'a'.*sub-folder"),
        (
            dict(val="{}/one"),
            "3 classes and KNNHook.val 1: .'a', 'blue', 'green', 'red'. are",
        ),
        (dict(k=22), "k=22: train has 21 images only"),
        (dict(images_per_class=1), "k=5: train has 3 images only"),
        (
            dict(
                train=dict(type="CustomDataset", data_root="{}/train", with_label=False)
            ),
            "KNNHook.train: this data set has no labels",
        ),
        (
            dict(val=dict(type="CustomDataset", data_root="{}", ann_file="none.txt")),
            "KNNHook.val: .*none.txt",
        ),
        (dict(k=0), "KNNHook.k=0"),
        (dict(interval=0), "KNNHook.interval=0"),
        (dict(temperature=0), "KNNHook.temperature=0"),
        (dict(temperature="low"), "KNNHook.temperature='low'"),
        (dict(train="{}/gap", val="{}/gap"), "images of one class only, .'a'."),
        (dict(val="{}/less"), "KNNHook.val: it has no images of the classes .'red'."),
        (
            dict(
                val=dict(
                    type="CustomDataset",
                    data_root="{}/val",
                    metainfo=dict(classes=("red", "green", "blue")),
                )
            ),
            "KNNHook.train has 3 classes and KNNHook.val 3: the order differs",
        ),
        (
            dict(
                val=dict(
                    type="CustomDataset",
                    data_root="{}",
                    data_prefix="val",
                    ann_file="beyond.txt",
                    metainfo=dict(classes=("blue", "green", "red")),
                )
            ),
            "KNNHook.val: it has a label 3, but metainfo.classes has 3 names",
        ),
    ],
)
def test_what_is_wrong_is_named(labeled, option, message):
    (labeled / "empty" / "a").mkdir(parents=True, exist_ok=True)
    if not (labeled / "one").exists():
        (labeled / "one" / "a").mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(labeled / "one" / "a" / "0.png")
        shutil.copytree(labeled / "one", labeled / "gap")
        (labeled / "gap" / "b").mkdir()
        shutil.copytree(labeled / "val", labeled / "less")
        for file in (labeled / "less" / "red").iterdir():
            file.unlink()
        (labeled / "beyond.txt").write_text("blue/0.png 0\nred/0.png 3")

    def filled(value):
        if isinstance(value, dict):
            return {key: filled(v) for key, v in value.items()}
        return value.replace("{}", str(labeled)) if isinstance(value, str) else value

    with pytest.raises(InputError, match=message):
        hook_for(labeled, **filled(option))


def test_the_config_fragment(tmp_path, labeled):
    """As its comment says, with folders that are here."""
    config = tmp_path / "config.py"
    config.write_text(
        f"_base_ = [{str(PRETRAINING)!r}, {str(FRAGMENT)!r}]\n"
        "custom_hooks = [*_base_.custom_hooks, _base_.knn_monitor]\n"
    )
    hooks = Config.fromfile(config).custom_hooks
    assert [hook.type for hook in hooks].count("EmbeddingMonitorHook") == 1
    options = {k: v for k, v in hooks[-1].items() if k not in ("type", "train", "val")}
    hook = hook_for(labeled, **options)
    assert len(hook.parts["train"]) == 21 and hook.k == 20
