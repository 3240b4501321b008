"""What the document says about a scale's data and protocol."""

import json
from collections.abc import Iterable
from typing import Any

import report_tables as tables
from collected import Scale
from titles import TITLES
from wording import bullet, listed, paragraph

PAPER = (
    "The paper pre-trains on ImageNet, on many GPUs with thousands of images a step, "
    "and fine-tunes on COCO. Here the images are composed from cut-outs and grounds, "
    "the network and the schedules are those of the configs above, and a row sees as "
    "many images as the table says. An AP of this document compares with other rows of "
    "its scale and with nothing outside."
)
ONE_PRETRAINING = (
    "Each row was pre-trained once. The seeds are of fine-tuning: the spread holds the "
    "noise of fine-tuning and not that of pre-training, so a difference outside the "
    "spread may still be one between two pre-trainings. Fine-tunings of one seed see "
    "the same images in the same order, whatever they start from."
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
    if not any(scale.pretraining(row).get("search") for row in scale.rows):
        return [paragraph("No search was run.")]
    found = tables.edges(scale)
    text = (
        "Each learning rate was tried for the steps given, and judged by kNN accuracy, "
        "never by detection AP."
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
        f"All rows together took {hours(scale):.1f} hours; what several rows share is "
        "counted once. Multiply-adds are those of forward and backward passes of "
        "pre-training."
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
        for part in (before, *(before.get("search") or [])):
            shared[json.dumps(part, sort_keys=True)] = part.get("seconds") or 0
        own += sum(run.get("seconds") or 0 for run in content.get("finetuning", []))
    return (own + sum(shared.values())) / 3600


def protocol(scale: Scale) -> list[str]:
    """Paragraphs on data, pre-training and fine-tuning."""
    return [
        *data(scale),
        paragraph(ONE_PRETRAINING),
        tables.lengths(scale),
        tables.tunings(scale),
        paragraph(PAPER),
    ]


def missing(scale: Scale) -> str:
    """Which rows there is nothing of, as a sentence; empty where there is all."""
    lacking = [title for row, title in TITLES.items() if row not in scale.rows]
    return f"Not run: {'; '.join(lacking)}." if lacking else ""
