"""Turn a checkpoint of the authors' released code into one of ours.

    python tools/import_official.py CKPT OUT [--config CONFIG] [--trust]

OUT has the names of the model that CONFIG builds: tools/export.py takes it to a
detector, and as `load_from` pre-training goes on from it.
"""

import argparse
from pathlib import Path

from mmengine.registry import init_default_scope

from mcl.config import adapt_to_cpu, read_config
from mcl.errors import InputError, run_cli
from mcl.export import build_unfilled, check_out, load_weights, write_tensors
from mcl.export.load_report import BACKBONE, NECK, PRETRAINING_ONLY, LoadReport
from mcl.export.released import from_released

CONFIG = "configs/mcl/mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"


def build_model(config: str):
    """The pre-training model of a config: names and shapes."""
    from mmpretrain.registry import MODELS

    cfg = read_config(config)
    adapt_to_cpu(cfg)
    init_default_scope("mmpretrain")
    return build_unfilled(lambda: MODELS.build(cfg.model))


def find_problems(report: LoadReport) -> list[str]:
    """What does not fit; every part that the file has must be whole."""
    # Beside the backbone alone, which a file may be stripped to, all or nothing.
    rest = [n for n, part in report.parts.items() if part.loaded and n != BACKBONE]
    problems = report.problems((BACKBONE, NECK) if rest else (BACKBONE,))
    if rest and "neck.shared_convs" not in rest:
        problems.append("neck.shared_convs: no weight of it fits")
    for name in (p.rstrip(".") for p in PRETRAINING_ONLY):
        part = report.parts.get(name)
        # Theirs has no count of steps; the target's schedule starts anew.
        absent = [n for n in part.missing if n != "target.step"] if part else []
        brought = part and (part.loaded or part.unexpected or part.mismatched)
        if brought and (absent or part.unexpected or part.mismatched):
            problems.append(f"{name}: {part.problem()}")
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="checkpoint of the authors' code")
    parser.add_argument("out", help="file to write")
    parser.add_argument(
        "--config",
        default=str(Path(__file__).parents[1] / CONFIG),
        help="pre-training config of the same model",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="unpickle objects other than tensors, which runs code of the file",
    )
    args = parser.parse_args()
    check_out(args.out, args.checkpoint)
    if args.trust:
        print(f"--trust: whatever code {args.checkpoint} names is run", flush=True)
    weights, unknown = from_released(load_weights(args.checkpoint, args.trust))
    report = LoadReport.compare(weights, build_model(args.config).state_dict())
    problems = find_problems(report)
    if problems:
        raise InputError(
            f"{args.checkpoint}: it does not fit {args.config} "
            f"({'; '.join(problems)}); give the config of its model with --config. "
            f"Nothing is written\n{report.in_full()}"
        )
    write_tensors(dict(state_dict=weights), args.out)
    print(report.in_full())
    if unknown:
        print(f"left out: {len(unknown)} weights of another kind, such as {unknown[0]}")
    print(f"wrote {len(weights)} tensors to {args.out}")


if __name__ == "__main__":
    run_cli(main)
