"""AP of result files, neighbors' votes on features, multiply-adds of a step.

    python tools/replication/measure.py detections ANN PREFIX OUT
    python tools/replication/measure.py features CONFIG CHECKPOINT DATA OUT
    python tools/replication/measure.py work CONFIG OUT

Each writes its figures into the JSON file OUT, which replicate.py reads. The second one
also counts the multiply-adds of a training step, the third one nothing but them.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS, MODELS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode

from mcl.engine.knn import knn_vote, plain_pipeline
from mcl.errors import run_cli
from mcl.export import load_weights
from mcl.models.losses import normalize

# Neighbors that vote, and images of a cut-out that are in the bank.
NEIGHBORS = 8
BANK_PER_CUTOUT = 8
EXAMPLES = 6  # scenes whose detections are kept


def average_precision(
    truth: COCO, file: Path, kind: str, by_class: bool
) -> list[float]:
    """AP, AP50 and AP75 of a result file; -1 of pycocotools becomes 0."""
    results = json.loads(file.read_text())
    if not results:
        return [0.0, 0.0, 0.0]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.useCats = int(by_class)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [max(0.0, float(value)) for value in evaluation.stats[:3]]


def measure_detections(annotations: Path, prefix: str) -> dict:
    """AP of boxes and masks, with and without classes, and a few scenes' boxes."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
    found = {}
    for kind in ("bbox", "segm"):
        file = Path(f"{prefix}.{kind}.json")
        values = average_precision(truth, file, kind, by_class=True)
        names = (kind, f"{kind}_50", f"{kind}_75")
        found.update(zip(names, values, strict=True))
        found[f"{kind}_agnostic"] = average_precision(truth, file, kind, False)[0]
    boxes = json.loads(Path(f"{prefix}.bbox.json").read_text())
    found["examples"] = [
        dict(image_id=image, boxes=best(boxes, image, len(truth.getAnnIds(image))))
        for image in sorted(truth.getImgIds())[:EXAMPLES]
    ]
    return found


def best(results: list[dict], image: int, count: int) -> list[list[float]]:
    """[x, y, width, height, score, category] of an image's highest scores."""
    found = [
        [*(round(v, 1) for v in r["bbox"]), round(r["score"], 3), r["category_id"]]
        for r in results
        if r["image_id"] == image
    ]
    return sorted(found, key=lambda box: -box[4])[:count]


def load_backbone(cfg: Config, checkpoint: str) -> nn.Module:
    """The backbone of a pre-trained model, in evaluation mode."""
    backbone = MODELS.build(cfg.model.backbone)
    head = "backbone."
    own = {
        key.removeprefix(head): value
        for key, value in load_weights(checkpoint).items()
        if key.startswith(head)
    }
    backbone.load_state_dict(own)
    backbone.eval()  # MMPretrain's returns nothing
    return backbone


@torch.no_grad()
def embed(
    backbone: nn.Module, cfg: Config, folder: Path, most: int | None = None
) -> tuple[Tensor, list[str]]:
    """Averaged last maps (N, C), normalized, and cut-outs (N) of a folder's pictures.

    ``most`` pictures of a cut-out are taken, the first ones; all when None.
    """
    dataset = DATASETS.build(
        dict(
            type="CustomDataset",
            data_root=str(folder),
            extensions=(".jpg",),
            pipeline=plain_pipeline(cfg.size),
        )
    )
    mean, std = (
        torch.tensor(cfg.model.data_preprocessor[key]).view(3, 1, 1)
        for key in ("mean", "std")
    )
    taken: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        path = Path(dataset.get_data_info(index)["img_path"])
        name = path.parent.relative_to(folder).as_posix()
        taken.setdefault(name, []).append(index)
    taken = {name: indices[:most] for name, indices in taken.items()}
    chosen = Subset(dataset, sum(taken.values(), []))
    # Pictures are read as BGR; all rows were trained on RGB.
    features = [
        backbone((torch.stack(batch["inputs"]).flip(1) - mean) / std)[-1].mean((2, 3))
        for batch in DataLoader(chosen, 128, collate_fn=pseudo_collate)
    ]
    names = [name for name, indices in taken.items() for _ in indices]
    return normalize(torch.cat(features)), names


def measure_features(cfg: Config, checkpoint: str, data: Path) -> dict:
    """Top-1 of nearest neighbors: are cut-outs recognized on other grounds?

    A picture of ``probe`` gets the cut-out (folder) that its neighbors vote for.
    """
    backbone = load_backbone(cfg, checkpoint)
    bank, known = embed(backbone, cfg, data / "pretrain", BANK_PER_CUTOUT)
    queries, wanted = embed(backbone, cfg, data / "probe")
    numbers = {name: k for k, name in enumerate(sorted(set(known)))}
    votes = knn_vote(
        queries, bank, torch.tensor([numbers[name] for name in known]), NEIGHBORS
    )
    right = votes == torch.tensor([numbers[name] for name in wanted])
    # Features that are not finite vote for nothing: their run has failed.
    right &= queries.isfinite().all(dim=1) & bank.isfinite().all()
    return dict(knn=right.float().mean().item())


def count_work(cfg: Config, batch: int = 64) -> float:
    """Multiply-adds (1e9) per image of a step, forward and backward.

    64 images fill the canvases of all levels; fewer would pay for empty tiles.
    """
    loader = dict(cfg.train_dataloader, batch_size=batch, num_workers=0)
    loader["persistent_workers"] = False
    loader["sampler"] = dict(loader["sampler"], batch_size=batch)
    data = next(iter(Runner.build_dataloader(loader, seed=0)))
    model = MODELS.build(cfg.model)
    with FlopCounterMode(display=False) as counter:
        losses = model(**model.data_preprocessor(data, True), mode="loss")
        model.parse_losses(losses)[0].backward()
    return counter.get_total_flops() / 2 / batch / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    detections = kinds.add_parser("detections")
    detections.add_argument("annotations", type=Path)
    detections.add_argument("prefix", help="of PREFIX.bbox.json and PREFIX.segm.json")
    features = kinds.add_parser("features")
    features.add_argument("config")
    features.add_argument("checkpoint")
    features.add_argument("data", type=Path)
    work = kinds.add_parser("work")
    work.add_argument("config")
    for kind in (detections, features, work):
        kind.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.kind == "detections":
        found = measure_detections(args.annotations, args.prefix)
    else:
        init_default_scope("mmpretrain")
        cfg = Config.fromfile(args.config)
        found = dict(gmac_per_image=count_work(cfg))
        if args.kind == "features":
            found |= measure_features(cfg, args.checkpoint, args.data)
    args.out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    run_cli(main)
