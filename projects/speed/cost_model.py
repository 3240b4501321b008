"""What 100 epochs of ImageNet cost on some machines: the tables of cost.md.

    python -m projects.speed.cost_model            # print them
    python -m projects.speed.cost_model --write    # and put them into cost.md

All numbers that go in stand in cost.json, each with its kind and its source, and in
scale.json, which `python -m projects.speed.benchmark scale` writes.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
DOCUMENT = HERE / "cost.md"
FLOAT32 = 4  # bytes, of gradients and embeddings
# Shares of the peak that a GPU may reach, as cost.json names them.
SHARES = ("share_low", "share", "share_high")
# Shares of a step's time in communication that are looked for, and among which
# numbers of which cluster's GPU, link and latency.
LIMITS, NUMBERS = (0.1, 0.25, 0.5), [2**i for i in range(1, 11)]
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


class CostModel:
    """Seconds and hours of a run, from the numbers of cost.json."""

    def __init__(self, numbers: dict) -> None:
        self.figures = numbers["figures"]
        self.recipe = numbers["recipe"]
        self.clusters = [Cluster(**c) for c in numbers["clusters"]]

    def value(self, name: str) -> float:
        return self.figures[name]["value"]

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
        recipe, gpus = self.recipe, cluster.gpus
        if gpus == 1:
            return 0.0, 0.0, 0.0
        iterations = max(1, recipe["batch"] // (gpus * recipe["images_per_gpu"]))
        latency = cluster.latency_us * 1e-6
        speed = cluster.link_gigabytes * 1e9 * self.value("link_share")
        others = (gpus - 1) / gpus
        norm = self.value("norm_passes") * iterations * latency
        targets = recipe["views"] * recipe["batch"] * recipe["embedding"] * FLOAT32
        gather = iterations * latency + targets * others / speed
        weights = self.value("mega_weights") * 1e6 * FLOAT32
        return norm, gather, latency + 2 * others * weights / speed

    def hours(self, seconds: float) -> float:
        """Of the whole run, from the seconds of a step; short batches are dropped."""
        steps = self.recipe["images"] // self.recipe["batch"] * self.recipe["epochs"]
        return steps * seconds / 3600

    def cores_needed(self, cluster: Cluster, share: str) -> float:
        """CPU cores for each GPU at which the pipeline is as fast as the network."""
        rate = self.recipe["batch"] / self.step(cluster, share).network
        return rate / cluster.gpus / self.value("images_per_core")

    def first_beyond(self, limit: float) -> int | None:
        """Fewest of the searched GPUs whose communication exceeds a share."""
        cluster = next(c for c in self.clusters if c.name == SEARCHED)
        for gpus in NUMBERS:
            step = self.step(cluster._replace(gpus=gpus))
            if step.communication > limit * step.network:
                return gpus
        return None


Rows = Iterable[Sequence]


def assumptions(model: CostModel) -> Rows:
    yield "number", "value", "kind", "source"
    for f in model.figures.values():
        yield f["what"], f"{f['value']} {f['unit']}".strip(), f["kind"], f["source"]
    for c in model.clusters:
        peak, link = f"{c.tera_flops} TFLOP/s", f"{c.link_gigabytes} GB/s"
        yield f"{c.name}: peak of a GPU", peak, "published", c.source
        cores = f"{c.name}: cores for each GPU"
        yield cores, c.cores_per_gpu, "assumed", "usual servers"
        if c.gpus > 1:
            latency = f"{c.latency_us} us"
            yield f"{c.name}: link of a GPU", link, "published", c.source
            yield f"{c.name}: small collective", latency, "assumed", "not measured"


def hours(model: CostModel) -> Rows:
    low, middle, high = [f"{model.value(s):g} of peak" for s in SHARES]
    networks = [f"network, {share}" for share in (low, middle, high)]
    full, both = f"`full`, {middle}", f"**both, {middle}**"
    yield "machine", *networks, full, "pipeline", both, "limit"
    for cluster in model.clusters:
        steps = [model.step(cluster, s) for s in SHARES]
        full = model.step(cluster, work="giga_mac_full").network
        network, pipeline = steps[1].network, steps[1].pipeline
        both = max(network, pipeline)  # workers go on while the network trains
        seconds = [*(s.network for s in steps), full, pipeline, both]
        limit = "pipeline" if pipeline > network else "network"
        yield cluster.name, *(number(model.hours(s)) for s in seconds), limit


def parts(model: CostModel) -> Rows:
    share, speed = "communication / network", "images/s of the network"
    yield "machine", "compute", "SyncBN", *Step._fields[2:], share, speed
    for cluster in model.clusters:
        step = model.step(cluster)
        share = f"{step.communication / step.network:.0%}"
        speed = number(model.recipe["batch"] / step.network)
        yield cluster.name, *(number(1000 * s) for s in step), share, speed


def limits(model: CostModel) -> Rows:
    at = [f"at {model.value(s):g} of peak" for s in SHARES]
    yield "machine", *at, "cores assumed"
    for c in model.clusters:
        cores = [number(model.cores_needed(c, s)) for s in SHARES]
        yield c.name, *cores, c.cores_per_gpu


def growth(model: CostModel) -> Rows:
    yield "communication exceeds", f"from so many {SEARCHED.split(' x ')[1]} on"
    for limit in LIMITS:
        yield f"{limit:.0%} of the network's time", model.first_beyond(limit) or "-"


def scale(measured: dict) -> Rows:
    """Time and memory of a step as ``benchmark scale`` found them."""
    settings = ("varied", "levels", "processes", "images for each")
    yield *settings, "s a step", "images/s", "peak MiB", "of it activations"
    for row in measured["rows"]:
        settings = [row[k] for k in ("name", "levels", "processes", "batch")]
        speeds = [number(row[k]) for k in ("seconds", "images_per_second")]
        yield *settings, *speeds, *(f"{row[k]:,.0f}" for k in ("peak", "activations"))


def number(value: float) -> str:
    """Three digits at most, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def make_tables() -> dict[str, str]:
    """All tables by name, in Markdown."""
    model = CostModel(json.loads((HERE / "cost.json").read_text()))
    found = {make.__name__: make(model) for make in (hours, parts, limits, growth)}
    found["scale"] = scale(json.loads((HERE / "scale.json").read_text()))
    found["assumptions"] = assumptions(model)
    return {name: markdown(rows) for name, rows in found.items()}


def markdown(rows: Rows) -> str:
    headings, *others = rows
    lines = [headings, ["---"] * len(headings), *others]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def insert(text: str, tables: dict[str, str]) -> str:
    """Put each table between its marks, ``<!-- NAME -->`` and ``<!-- end -->``."""
    for name, table in tables.items():
        place = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        text = place.sub(lambda _, t=table: f"{t}\n", text)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into cost.md, too")
    args = parser.parse_args()
    tables = make_tables()
    print("\n\n".join(f"{name}\n\n{table}" for name, table in tables.items()))
    if args.write:
        DOCUMENT.write_text(insert(DOCUMENT.read_text(), tables))


if __name__ == "__main__":
    main()
