"""Write pre-trained weights for a detector, or for another library.

    python tools/export.py CKPT OUT [--to mmdet|mmpretrain|torchvision|timm|detectron2]
        [--part backbone|trunk|detector] [--net online|target]
        [--detector mask-rcnn|faster-rcnn|retinanet|c4|cascade|CONFIG]

The file is compared with the model it is for. When a part of that would be filled
incompletely, nothing is written and the exit status is 1.
"""

import argparse
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from mcl.config import adapt_to_cpu, read_config
from mcl.errors import InputError, run_cli
from mcl.export import (
    NETWORKS,
    PARTS,
    Destination,
    ToDetectron2,
    ToMMDetection,
    ToMMPretrain,
    ToTimm,
    ToTorchvision,
    build_unfilled,
    check_out,
    export,
    find_doubts,
    load_weights,
    take_network,
)
from mcl.export.architecture import Architecture

LIBRARIES = ("mmdet", "mmpretrain", "torchvision", "timm", "detectron2")
BACKBONE_ONLY = ("mmpretrain", "timm")
BENCHMARKS = Path(__file__).parents[1] / "configs/benchmarks"
# The detector of a benchmark stands for its kind.
DETECTORS = {
    "mask-rcnn": "mask-rcnn_r50-random_fpn_1x_coco.py",
    "faster-rcnn": "faster-rcnn_r50-random_fpn_1x_coco.py",
    "retinanet": "retinanet_r50-random_fpn_1x_coco.py",
    "c4": "mask-rcnn_r50-random_c4_1x_coco.py",
    "cascade": "cascade-mask-rcnn_r50-random_fpn_1x_coco.py",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint of pre-training")
    parser.add_argument("out", help="file to write")
    parser.add_argument("--to", default="mmdet", choices=LIBRARIES, help="library")
    parser.add_argument(
        "--part",
        choices=list(PARTS),
        help="backbone; trunk: and FPN; detector: and the box head's convs. "
        "By default what the model has of these",
    )
    parser.add_argument(
        "--net", default="online", choices=NETWORKS, help="trained or averaged network"
    )
    parser.add_argument(
        "--detector",
        help=f"{', '.join(DETECTORS)}, or for mmdet a config, which may be called "
        "mmdet::...; default mask-rcnn",
    )
    parser.add_argument(
        "--allow-unread",
        action="store_true",
        help="write layers of pyramid maps that pre-training never read, as they began "
        "(told by BN layers that counted no batch)",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="unpickle objects other than tensors, which runs code of the file",
    )
    parser.add_argument(
        "--names", action="store_true", help="name all weights that do not match"
    )
    return parser.parse_args()


def build_detector(config: str) -> torch.nn.Module:
    """The detector of a config: names and shapes.

    Raises:
        InputError: when there is no such config, it cannot be built, or its backbone
            computes something else of the weights.
    """
    from mmdet.registry import MODELS

    cfg = _detector_config(config)
    for doubt in find_doubts(cfg.model):
        print(f"warning: --detector {config}: {doubt}", file=sys.stderr)
    adapt_to_cpu(cfg)
    cfg.model.pop("init_cfg", None)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    try:
        return build_unfilled(lambda: MODELS.build(cfg.model))
    except (KeyError, TypeError, ValueError, AssertionError, AttributeError) as error:
        raise InputError(
            f"--detector {config}: its model cannot be built ({error})"
        ) from error


def _detector_config(config: str) -> Config:
    """The config that --detector names, by kind, path or ``mmdet::``."""
    if config in DETECTORS:
        (path,) = BENCHMARKS.rglob(DETECTORS[config])
        return Config.fromfile(path)
    if "::" in config and not config.startswith("mmdet::"):
        raise InputError(f"--detector {config}: give a config of mmdet::")
    if "::" in config:
        try:
            return get_config(config)
        except (OSError, AssertionError, ValueError) as error:
            raise InputError(f"--detector {config}: {error}") from error
    if not Path(config).suffix:
        raise InputError(
            f"--detector {config}: choose one of {', '.join(DETECTORS)}, or give the "
            "path of a config"
        )
    cfg = read_config(config)
    if not cfg.get("model"):
        raise InputError(f"--detector {config}: this config has no model")
    return cfg


def destination(args: argparse.Namespace, network: dict) -> Destination:
    """The model that the file is for.

    Raises:
        InputError: when the library has none for this backbone, part or detector.
    """
    if args.to == "mmdet":
        return ToMMDetection(build_detector(args.detector or "mask-rcnn"))
    if args.to in BACKBONE_ONLY and args.detector:
        raise InputError(f"--detector {args.detector}: {args.to} takes a backbone only")
    if args.to in BACKBONE_ONLY and args.part not in (None, "backbone"):
        raise InputError(f"--part {args.part}: {args.to} takes a backbone only")
    prefix = "backbone."
    names = {
        k.removeprefix(prefix): v for k, v in network.items() if k.startswith(prefix)
    }
    architecture = Architecture.of(names)
    if architecture is None:
        raise InputError(
            f"{args.checkpoint}: its backbone is no ResNet, Swin or ConvNeXt of "
            "MMPretrain; --to mmdet takes any"
        )
    if args.to == "timm":
        return ToTimm(architecture)
    if args.to == "mmpretrain":
        return ToMMPretrain(architecture)
    if args.to == "detectron2":
        return ToDetectron2(architecture, args.detector or "mask-rcnn")
    alone = args.part == "backbone" and not args.detector
    return ToTorchvision(architecture, None if alone else args.detector or "mask-rcnn")


def main() -> None:
    args = parse_args()
    check_out(args.out, args.checkpoint)
    if args.trust:
        print(f"--trust: whatever code {args.checkpoint} names is run", flush=True)
    weights = load_weights(args.checkpoint, args.trust)
    network, borrowed = take_network(weights, args.net)
    target = destination(args, network)
    exported = export(network, target, args.part, args.allow_unread)
    target.write(exported.weights, args.out)
    print(exported.report.in_full(None if args.names else 3))
    if borrowed:
        print(
            f"{len(borrowed)} norm layers that the target network never ran have the "
            f"online network's statistics, such as {borrowed[0]}"
        )
    if exported.unread:
        print(
            f"{len(exported.unread)} norm layers of the pyramid that pre-training read "
            f"nothing from go as they began, with convs: {exported.unread[0]}, ..."
        )
    if exported.left_behind:
        left = exported.left_behind
        print(f"left behind: {len(left)} weights, such as {left[0]}")
    print(f"wrote {len(exported.weights)} tensors to {args.out}; to load it:")
    print(target.usage(args.out))


if __name__ == "__main__":
    run_cli(main)
