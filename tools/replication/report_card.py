"""What the document says about a scale's data and protocol."""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import report_tables as tables
from collected import Scale
from measure import BANK_PER_CUTOUT, NEIGHBOURS
from mmengine.config import Config
from titles import TITLES
from wording import bullet, listed, paragraph, plain

CONFIGS = Path(__file__).resolve().parents[2] / "configs/replication"
AVERAGED = ("mcl", "byol", "mocov2", "densecl")  # have an average of their weights
PAPER = (
    "The paper pre-trains on ImageNet, on many GPUs with thousands of images a step, "
    "and fine-tunes on COCO. Here the images are composed from cut-outs and grounds, "
    "the network and the schedules are those of the configs above, and a row sees as "
    "many images as the table says. An AP of this document compares with other rows of "
    "its scale and with nothing outside."
)
ONE_PRETRAINING = (
    "Each row was pre-trained once, on one draw of the cut-outs. The seeds are of "
    "fine-tuning: the spread leaves out the draw of the cut-outs and of pre-training, "
    "so a difference outside the spread may still be one between two pre-trainings. "
    "Fine-tunings of one seed share the order of the scenes and the part of the "
    "labels, whatever they start from, but not the initial weights of new layers."
)
PRETRAININGS = (
    "A seed is one of pre-training, and its value the mean of the fine-tunings that "
    "start from it; those of the random start are put in the same groups. The spread "
    "leaves out the draw of the data, cut-outs and scenes, and the choice of the "
    "learning rate. Fine-tunings of different rows share the order of the scenes, but "
    "not the initial weights of new layers."
)
WITHIN = (
    "Box AP with all labels of every fine-tuning, by seed of pre-training; their "
    "standard deviation within a seed, pooled, and that of the seeds' means."
)
THE_REST = (
    "Views, averages of weights, optimizer, lengths and figures are what `small` says "
    "of them."
)
GIVEN_RATES = (
    "None was searched. MoCo v2 and DenseCL have the rates that their searches took in "
    "`small`. MCL has that of its own there, and so have the rows that change a part "
    "of it, of which searches took lower rates: where MCL is ahead of these, its rate "
    "may suit them less."
)
PURPOSE = (
    "What of `small`'s differences is left over several pre-trainings, and where the "
    "rows that change a part of MCL have its learning rate. Data, networks and lengths "
    "are those of `small`, with all labels alone. Seed 0 of a row that has the same "
    "rate there repeats that pre-training, and the other seeds are new. A fine-tuning "
    "is evaluated once, at its end, which changes what it draws: it is no repetition. "
    "As fine-tunings from one start differ, each pre-training has several."
)
VIEWS = (
    "Each method has its own published augmentations, with the blur scaled to the size "
    "of the crops; BYOL here takes MoCo v2's views. The queue of MoCo v2 and DenseCL "
    "is as short as one round over the cut-outs, because the images of a round share "
    "their ground: those of other rounds would be told apart by theirs."
)
BY_HAND = (
    "Optimizer and weight decay, and the lengths of all trainings, were set by hand "
    "after trials with MCL, supervised classification and the random start alone; what "
    'was seen in them is under "What moved it".'
)
AGNOSTIC = (
    "Class-agnostic AP is of the same detections, with classes ignored in matching; "
    "their non-maximum suppression was by class."
)
RECOGNITION = (
    "kNN is the recognition of instances: pictures of known cut-outs, on grounds never "
    f"seen with them, get the vote of their {NEIGHBOURS} nearest neighbours among "
    f"{BANK_PER_CUTOUT} pictures of each known cut-out. The figure is the top-1 "
    "accuracy among all cut-outs of pre-training."
)


def counts(numbers: dict[str, int]) -> str:
    """Sets and how many they hold, in words."""
    return listed([f"{value:,} {name}" for name, value in numbers.items()])


def settings(options: dict[str, Any]) -> str:
    """Options as code, those that are not set left out."""
    kept = {k: v for k, v in options.items() if v is not None}
    return ", ".join(f"`{key}={value}`" for key, value in kept.items())


def card(scale: Scale) -> Iterable[str]:
    """Facts of the data card, a list item each; those it lacks are left out."""
    facts = scale.data.get("card") or {}
    if facts.get("images"):
        yield f"Pictures: {counts(facts['images'])}."
    if facts.get("objects"):
        yield f"Objects in the scenes: {counts(facts['objects'])}."
    if facts.get("categories"):
        yield f"Classes: {len(facts['categories'])}."
    if scale.data.get("scene_size"):
        yield f"Side of a scene: {scale.data['scene_size']} pixels."
    if facts.get("reuse"):
        yield str(facts["reuse"])
    if facts.get("grounds"):
        yield f"Photographs as grounds: {grounds(facts['grounds'])}."
    if facts.get("options"):
        yield f"Options: {settings(facts['options'])}."
    if facts.get("versions"):
        yield f"Made with {settings(facts['versions'])}."


def grounds(found: Any) -> str:
    """How many grounds a card names, by set where it tells them apart."""
    if not isinstance(found, dict):
        return str(len(found)) if isinstance(found, list) else str(found)
    return counts({k: v if isinstance(v, int) else len(v) for k, v in found.items()})


def data(scale: Scale) -> list[str]:
    """Paragraphs on the data set."""
    items = [bullet(fact) for fact in card(scale)]
    if not items:
        return [paragraph("There is no data card beside these results.")]
    sums = (scale.data.get("card") or {}).get("sha256")
    return ["\n".join(items), *([tables.checksums(sums)] if sums else [])]


def search(scale: Scale) -> list[str]:
    """Paragraphs on the search of the learning rate."""
    if scale.pretrainings > 1:
        return [paragraph(GIVEN_RATES)]
    if not any(scale.pretraining(row).get("search") for row in scale.rows):
        return [paragraph("No search was run.")]
    found = tables.edges(scale)
    text = (
        "Each learning rate was tried for the steps given, and judged by kNN accuracy "
        "(see Protocol), never by detection AP."
    )
    if found["edge"]:
        text += (
            " The best is the lowest or highest that was tried, so that a better one "
            f"may lie beyond, for: {'; '.join(found['edge'])}."
        )
    if found["other"]:
        names = "; ".join(found["other"])
        text += f" The one taken is not the best by kNN for: {names}."
    return [paragraph(text), tables.searches(scale)]


def cost(scale: Scale) -> list[str]:
    """Paragraphs on what each row took."""
    text = (
        f"The trainings of all rows add up to {hours(scale):.1f} hours; what several "
        "rows share is counted once. Seconds are of stages of which as many ran at a "
        "time, with as many threads each, as is said of the machine below. "
        "Multiply-adds are those of forward and backward passes of pre-training."
    )
    machines = [
        bullet(f"{letter}: {words}.")
        for words, letter in tables.machine_names(scale).items()
    ]
    return [paragraph(text), tables.costs(scale), "\n".join(machines)]


def hours(scale: Scale) -> float:
    """What all rows took: searches, pre-trainings and fine-tunings.

    Rows may share a search or a pre-training (a part of its weights is transferred),
    and then their files agree in it.
    """
    shared, own = {}, 0.0
    for row, content in scale.rows.items():
        before = scale.pretraining(row)
        trained = before.get("runs") or [before]
        for part in (*trained, *(before.get("search") or [])):
            shared[json.dumps(part, sort_keys=True)] = part.get("seconds") or 0
        own += sum(run.get("seconds") or 0 for run in content.get("finetuning", []))
    return (own + sum(shared.values())) / 3600


def protocol(scale: Scale) -> list[str]:
    """Paragraphs on data, pre-training and fine-tuning."""
    own = [
        *data(scale),
        paragraph(pretrainings(scale)),
        tables.lengths(scale),
        tables.tunings(scale),
    ]
    if scale.pretrainings > 1:
        return [*own, paragraph(THE_REST)]
    return [
        *own,
        paragraph(f"{VIEWS} {momenta()} {BY_HAND}"),
        paragraph(f"{RECOGNITION} {AGNOSTIC}"),
        paragraph(PAPER),
    ]


def momenta() -> str:
    """The momentum of each average of weights, as the configs have it."""
    groups = defaultdict(list)
    for name in AVERAGED:
        model = Config.fromfile(
            CONFIGS / f"{name}.py",
            import_custom_modules=False,
            use_environment_variables=False,
        ).model
        value = model.get("base_momentum", model.get("momentum"))
        groups[value].append(TITLES[name])
    values = [f"{plain(v)} for {listed(titles)}" for v, titles in groups.items()]
    return (
        "The momentum of the average of the weights, the share of the new ones in a "
        "step, was set by hand before, per method, and the search does not cover it: "
        f"{', '.join(values)}; where it changes during training, this is its start."
    )


def purpose(scale: Scale) -> list[str]:
    """Why there is a scale beside another with the same data."""
    return [paragraph(PURPOSE)] if scale.pretrainings > 1 else []


def pretrainings(scale: Scale) -> str:
    """What the spread of the seeds holds."""
    return PRETRAININGS if scale.pretrainings > 1 else ONE_PRETRAINING


def within(scale: Scale) -> list[str]:
    """The section of fine-tunings from one pre-training."""
    if scale.pretrainings == 1:
        return []
    found = tables.within_pretrainings(scale)
    return ["### Fine-tunings of each pre-training", paragraph(WITHIN), found]


def missing(scale: Scale) -> str:
    """Which rows there is nothing of, as a sentence; empty where there is all."""
    lacking = [TITLES[row] for row in scale.planned if row not in scale.rows]
    return f"Not run: {'; '.join(lacking)}." if lacking else ""
