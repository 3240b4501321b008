"""AP of result files, kNN of features, multiply-adds of a step.

    python -m projects.replication.measure detections ANN PREFIX OUT
    python -m projects.replication.measure features CONFIG CHECKPOINT DATA OUT

Each writes its numbers into the JSON file OUT; `features` counts multiply-adds, too.
"""

import copy
import json
import sys
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

from mcl.config import read_config, share_batch_size
from mcl.engine.knn import knn_vote, plain_pipeline
from mcl.errors import run_cli
from mcl.export import load_weights
from mcl.models.losses import normalize

# Neighbors that vote, and images of a cut-out that are in the bank.
NEIGHBORS = 8
BANK_PER_CUTOUT = 8


def measure_detections(annotations: str, prefix: str) -> dict[str, float]:
    """AP, AP50 and AP75 of PREFIX.bbox.json and PREFIX.segm.json, 0..1.

    The class-agnostic AP matches boxes of any class; they were suppressed by class.
    """
    truth, found = COCO(annotations), {}
    for kind, name in (("bbox", "box_ap"), ("segm", "mask_ap")):
        results = json.loads(Path(f"{prefix}.{kind}.json").read_text())
        for by_class, ends in ((1, ("", "50", "75")), (0, ("_agnostic",))):
            values = [0.0] * 3
            if results:
                evaluation = COCOeval(truth, truth.loadRes(results), kind)
                evaluation.params.useCats = by_class
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
                # pycocotools says -1 where there is nothing to find.
                values = [max(0.0, float(value)) for value in evaluation.stats]
            found |= {f"{name}{end}": v for end, v in zip(ends, values, strict=False)}
    return found


def load_backbone(cfg: Config, checkpoint: str) -> nn.Module:
    """The backbone of a config in evaluation mode, with its maps C2 to C5.

    ``checkpoint`` is one of the config's pre-training, or ``random``, which is the same
    each time.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    if checkpoint != "random":
        model.load_state_dict(load_weights(checkpoint))
    model.backbone.eval()  # MMPretrain's returns nothing
    return model.backbone


def mean_and_std(cfg: Config) -> list[Tensor]:
    """Of a config's RGB images, (3, 1, 1) each."""
    given = cfg.model.data_preprocessor
    return [torch.tensor(given[key]).view(3, 1, 1) for key in ("mean", "std")]


@torch.no_grad()
def embed(
    backbone: nn.Module, cfg: Config, folder: Path, most: int | None = None
) -> tuple[Tensor, list[str]]:
    """Averaged last maps (N, C), normalized, and the cut-outs (N) of a folder's images.

    ``most`` images of a cut-out are taken, the first ones; all when None.
    """
    images = dict(type="CustomDataset", data_root=str(folder), extensions=(".jpg",))
    dataset = DATASETS.build(dict(images, pipeline=plain_pipeline(cfg.size)))
    taken: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        path = Path(dataset.get_data_info(index)["img_path"])
        name = path.parent.relative_to(folder).as_posix()
        taken.setdefault(name, []).append(index)
    taken = {name: indices[:most] for name, indices in taken.items()}
    chosen = Subset(dataset, sum(taken.values(), []))
    mean, std = mean_and_std(cfg)
    # Images are read as BGR; all rows were trained on RGB.
    features = [
        backbone((torch.stack(batch["inputs"]).flip(1) - mean) / std)[-1].mean((2, 3))
        for batch in DataLoader(chosen, 128, collate_fn=pseudo_collate)
    ]
    names = [name for name, indices in taken.items() for _ in indices]
    return normalize(torch.cat(features)), names


def recognize(cfg: Config, checkpoint: str, data: Path) -> float:
    """Top-1 of nearest neighbors, 0..1: are cut-outs recognized on new grounds?

    An image of ``probe`` gets the cut-out (folder) that its neighbors vote for.
    """
    backbone = load_backbone(cfg, checkpoint)
    bank, known = embed(backbone, cfg, data / "pretrain", BANK_PER_CUTOUT)
    queries, wanted = embed(backbone, cfg, data / "probe")
    numbers = {name: k for k, name in enumerate(sorted(set(known)))}
    labels, truth = (torch.tensor([numbers[n] for n in ns]) for ns in (known, wanted))
    right = knn_vote(queries, bank, labels, NEIGHBORS) == truth
    # Features that are not finite vote for nothing: their run has failed.
    right &= queries.isfinite().all(dim=1) & bank.isfinite().all()
    return right.float().mean().item()


def count_work(cfg: Config, batch: int = 64) -> float:
    """Multiply-adds (1e9) per image of a step, forward and backward.

    64 images fill the canvases of all levels; fewer would pay for empty tiles.
    """
    loader = dict(cfg.train_dataloader, batch_size=batch, num_workers=0)
    loader["persistent_workers"] = False
    data = next(iter(Runner.build_dataloader(share_batch_size(loader), seed=0)))
    model = MODELS.build(cfg.model)
    with FlopCounterMode(display=False) as counter:
        losses = model(**model.data_preprocessor(data, True), mode="loss")
        model.parse_losses(losses)[0].backward()
    return counter.get_total_flops() / 2 / batch / 1e9


def main() -> None:
    kind, *words, out = sys.argv[1:]
    if kind == "detections":
        found = measure_detections(*words)
    else:
        init_default_scope("mmpretrain")
        cfg = read_config(words[0])
        knn = recognize(cfg, words[1], Path(words[2]))
        found = dict(gmac_per_image=count_work(cfg), knn=knn)
    Path(out).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    run_cli(main)
