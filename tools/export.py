"""Write pre-trained backbone, FPN and box-head convs for MMDetection.

    python tools/export.py CKPT OUT [--detector CONFIG]

The report compares the file with the detector that CONFIG builds; when a part of
it would not be filled, nothing is written.
"""

import argparse
import os
from pathlib import Path

from mmengine.registry import init_default_scope

from mcl.errors import InputError, exit_in_words
from mcl.export import load_weights, save_for_detector, to_detector
from mcl.preflight import adapt_to_cpu, read_config

DETECTOR = "configs/benchmarks/coco/mask-rcnn_r50-mcl-pre_fpn_1x_coco.py"


def build_detector(config: str) -> dict:
    """State dict of the detector of an MMDetection config."""
    from mmdet.registry import MODELS

    cfg = read_config(config)
    adapt_to_cpu(cfg)
    init_default_scope(cfg.get("default_scope", "mmdet"))
    return MODELS.build(cfg.model).state_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint of pre-training")
    parser.add_argument("out", help="file to write")
    parser.add_argument(
        "--detector",
        default=str(Path(__file__).parents[1] / DETECTOR),
        help="config of the detector it is for",
    )
    args = parser.parse_args()
    if os.path.realpath(args.out) == os.path.realpath(args.checkpoint):
        raise InputError(f"{args.out}: OUT is the checkpoint itself; name another file")
    if Path(args.out).is_dir():
        raise InputError(f"{args.out}: OUT is a folder; name a file in it")
    weights = to_detector(load_weights(args.checkpoint))
    report = save_for_detector(weights, build_detector(args.detector), args.out)
    print(f"{report}\nwrote {len(weights)} tensors to {args.out}")


if __name__ == "__main__":
    exit_in_words(main)
