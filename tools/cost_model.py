"""What 100 epochs of ImageNet cost on some machines: the tables of docs/cost.md.

    python tools/cost_model.py            # print them
    python tools/cost_model.py --write    # and put them into docs/cost.md

All numbers that go in stand in docs/cost.json, each with its kind and its source, and
in docs/scale.json, which `tools/benchmark.py scale` writes.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
FIGURES, DOCUMENT = DOCS / "cost.json", DOCS / "cost.md"
SCALE = DOCS / "scale.json"
FLOAT32 = 4  # bytes, of gradients and embeddings
# Shares of a step's time in communication that are looked for, and among which
# numbers of GPUs.
SHARES, NUMBERS = (0.1, 0.25, 0.5), [2**i for i in range(1, 11)]
# The cluster whose GPU, link and latency the search takes.
SEARCHED = "32 x H100"


class Cluster(NamedTuple):
    """GPUs and what connects and feeds them.

    Attributes:
        cores_per_gpu: CPU cores that prepare images for a GPU.
        tera_flops: peak of a GPU in half precision.
        link_gigabytes: GB/s of a GPU's slowest link, one direction; None for one GPU.
        latency_us: microseconds of a small collective; None for one GPU.
    """

    name: str
    gpus: int
    cores_per_gpu: int
    tera_flops: float
    link_gigabytes: float | None
    latency_us: float | None
    source: str


class Step(NamedTuple):
    """Seconds of one optimizer step, by what they are for."""

    compute: float
    norm: float
    gather: float
    gradients: float
    pipeline: float

    @property
    def communication(self) -> float:
        return self.norm + self.gather + self.gradients

    @property
    def network(self) -> float:
        return self.compute + self.communication

    @property
    def total(self) -> float:
        """Workers prepare the next batch while the network trains on this one."""
        return max(self.network, self.pipeline)

    @property
    def limit(self) -> str:
        return "pipeline" if self.pipeline > self.network else "network"


class Model:
    """The cost model, on the numbers of docs/cost.json."""

    def __init__(self, numbers: dict) -> None:
        self.figures = numbers["figures"]
        self.recipe = numbers["recipe"]
        self.clusters = [Cluster(**c) for c in numbers["clusters"]]

    def value(self, name: str) -> float:
        return self.figures[name]["value"]

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run; short batches are dropped."""
        return self.recipe["epochs"] * (self.recipe["images"] // self.recipe["batch"])

    def step(
        self, cluster: Cluster, share: str = "share", work: str = "giga_mac"
    ) -> Step:
        """Seconds of a step of the recipe's batch.

        Args:
            cluster: where.
            share: figure that says which share of the peak is reached.
            work: figure that says how many multiply-adds an image takes.
        """
        batch, gpus = self.recipe["batch"], cluster.gpus
        speed = gpus * cluster.tera_flops * 1e12 * self.value(share)
        compute = 2 * self.value(work) * 1e9 * batch / speed
        cores = gpus * cluster.cores_per_gpu
        pipeline = batch / (cores * self.value("images_per_core"))
        return Step(compute, *self._communication(cluster), pipeline)

    def _communication(self, cluster: Cluster) -> tuple[float, float, float]:
        """Seconds of SyncBN, of the gather of targets and of gradients in a step."""
        gpus, batch = cluster.gpus, self.recipe["batch"]
        if gpus == 1:
            return 0.0, 0.0, 0.0
        iterations = max(1, batch // (gpus * self.recipe["images_per_gpu"]))
        latency = cluster.latency_us * 1e-6
        speed = cluster.link_gigabytes * 1e9 * self.value("link_share")
        others = (gpus - 1) / gpus
        norm = self.value("norm_passes") * iterations * latency
        gather = iterations * latency + self.gather_bytes * others / speed
        weights = self.value("mega_weights") * 1e6 * FLOAT32
        return norm, gather, latency + 2 * others * weights / speed

    @property
    def gather_bytes(self) -> int:
        """Of all targets of a step, both views."""
        recipe = self.recipe
        return recipe["views"] * recipe["batch"] * recipe["embedding"] * FLOAT32

    def hours(self, seconds: float) -> float:
        return self.steps * seconds / 3600

    def cores_needed(self, cluster: Cluster, share: str) -> float:
        """CPU cores for each GPU at which the pipeline is as fast as the network."""
        rate = self.recipe["batch"] / self.step(cluster, share).network
        return rate / cluster.gpus / self.value("images_per_core")


def table(headings: Sequence[str], rows: Sequence[Sequence]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def assumptions(model: Model) -> str:
    rows = [
        (f["what"], f"{f['value']} {f['unit']}".strip(), f["kind"], code(f["source"]))
        for f in model.figures.values()
    ]
    for c in model.clusters:
        rows.append(
            (
                f"{c.name}: peak of a GPU",
                f"{c.tera_flops} TFLOP/s",
                "published",
                c.source,
            )
        )
        rows.append(
            (
                f"{c.name}: cores for each GPU",
                c.cores_per_gpu,
                "assumed",
                "usual servers",
            )
        )
        if c.gpus > 1:
            link = f"{c.link_gigabytes} GB/s"
            rows.append((f"{c.name}: link of a GPU", link, "published", c.source))
            latency = f"{c.latency_us} us"
            rows.append(
                (f"{c.name}: small collective", latency, "assumed", "not measured")
            )
    return table(("number", "value", "kind", "source"), rows)


def code(source: str) -> str:
    """A command set as code; other sources as they are."""
    return re.sub(r"(python tools/\S+ \w+ \S+|--variant [^,]+)", r"`\1`", source)


def hours(model: Model) -> str:
    rows = []
    for cluster in model.clusters:
        steps = [model.step(cluster, s) for s in ("share_low", "share", "share_high")]
        full = model.step(cluster, "share", "giga_mac_full")
        rows.append(
            (
                cluster.name,
                *(number(model.hours(s.network)) for s in steps),
                number(model.hours(full.network)),
                number(model.hours(steps[1].pipeline)),
                number(model.hours(steps[1].total)),
                steps[1].limit,
            )
        )
    shares = [f"{model.value(s):g}" for s in ("share_low", "share", "share_high")]
    headings = (
        "machine",
        *(f"network, {s} of peak" for s in shares),
        f"`full`, {shares[1]} of peak",
        "pipeline",
        f"**both, {shares[1]} of peak**",
        "limit",
    )
    return table(headings, rows)


def parts(model: Model) -> str:
    rows = []
    for cluster in model.clusters:
        step = model.step(cluster)
        seconds = (step.compute, step.norm, step.gather, step.gradients, step.pipeline)
        rows.append(
            (
                cluster.name,
                *(number(1000 * s) for s in seconds),
                f"{step.communication / step.network:.0%}",
                number(model.recipe["batch"] / step.network),
            )
        )
    headings = (
        "machine",
        "compute",
        "SyncBN",
        "gather",
        "gradients",
        "pipeline",
        "communication / network",
        "images/s of the network",
    )
    return table(headings, rows)


def limits(model: Model) -> str:
    shares = ("share_low", "share", "share_high")
    rows = [
        (c.name, *(number(model.cores_needed(c, s)) for s in shares), c.cores_per_gpu)
        for c in model.clusters
    ]
    headings = [f"at {model.value(s):g} of peak" for s in shares]
    return table(("machine", *headings, "cores assumed"), rows)


def first_beyond(model: Model, limit: float) -> int | None:
    """Smallest of NUMBERS of the searched GPU whose communication exceeds a share."""
    cluster = next(c for c in model.clusters if c.name == SEARCHED)
    for gpus in NUMBERS:
        step = model.step(cluster._replace(gpus=gpus))
        if step.communication > limit * step.network:
            return gpus
    return None


def growth(model: Model) -> str:
    kind = SEARCHED.split(" x ")[1]
    rows = [
        (f"{limit:.0%} of the network's time", first_beyond(model, limit) or "-")
        for limit in SHARES
    ]
    return table(("communication exceeds", f"from so many {kind} on"), rows)


def number(value: float) -> str:
    """Three digits at most, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def scale(measured: dict) -> str:
    """Time and memory of a step as `tools/benchmark.py scale` found them."""
    rows = [
        (
            row["name"],
            row["levels"],
            row["processes"],
            row["batch"],
            *(number(row[k]) for k in ("seconds", "images_per_second")),
            *(f"{row[k]:,.0f}" for k in ("peak", "activations")),
        )
        for row in measured["rows"]
    ]
    headings = ("varied", "levels", "processes", "images for each", "s a step")
    return table((*headings, "images/s", "peak MiB", "of it activations"), rows)


TABLES = dict(
    assumptions=assumptions, hours=hours, parts=parts, limits=limits, growth=growth
)


def blocks() -> dict[str, str]:
    """All tables by name."""
    model = Model(json.loads(FIGURES.read_text()))
    tables = {name: make(model) for name, make in TABLES.items()}
    return dict(tables, scale=scale(json.loads(SCALE.read_text())))


def insert(text: str, tables: dict[str, str]) -> str:
    """Put each table between its marks, ``<!-- NAME -->`` and ``<!-- end -->``."""
    for name, content in tables.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(
            pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.DOTALL
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into docs/cost.md, too")
    args = parser.parse_args()
    tables = blocks()
    for name, content in tables.items():
        print(f"{name}\n\n{content}\n")
    if args.write:
        DOCUMENT.write_text(insert(DOCUMENT.read_text(), tables))


if __name__ == "__main__":
    main()
