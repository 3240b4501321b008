"""What the document says about a scale's data and protocol."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import report_tables as tables
from collected import Scale, cycles_of, without_key
from measure import BANK_PER_CUTOUT, NEIGHBORS
from mmengine.config import Config
from titles import TITLES
from wording import bullet, counted, listed, paragraph, percent, plain

sys.path.append(str(Path(__file__).resolve().parents[1] / "scenes"))

from compose import MAIN_SCALE, MIN_VISIBLE, SceneRules

CONFIGS = Path(__file__).resolve().parents[2] / "configs/replication"
AVERAGED = ("mcl", "byol", "mocov2", "densecl")  # have an average of their weights
DATA_SET = "Stamp Scenes"
ONE_SET = "All rows were run on data of these checksums; a row of others is refused."
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
    "start from it; those of the random start are put in groups of the same seeds, "
    "which have nothing else in common. The spread "
    "leaves out the draw of the data, cut-outs and scenes, and the choice of the "
    "learning rate. Fine-tunings of one seed share the order of the scenes, but not "
    "the initial weights of new layers."
)
WITHIN = (
    "Box AP with all labels of every fine-tuning, by seed of pre-training; their "
    "standard deviation within a seed, pooled; that of the seeds' means that this "
    "alone would make, if pre-trainings did not differ; the one found; and the kNN of "
    "the pre-trainings."
)
THE_REST = "For views, averages of weights, optimizer and figures see `small`."
GIVEN_RATES = {
    "small-seeds": "There was no search. MCL, MoCo v2, DenseCL and supervised MCL have "
    "the rates that their searches took in `small`. The rows that change a part of MCL "
    "have MCL's rate, though their own searches took lower ones: where MCL is ahead of "
    "them, the reason may be a rate that suits them less.",
    "small-longer": "There was no search. The rates are those of `small-seeds`.",
    "small-restart": "There was no search. The rates of both cycles are those of "
    "`small-seeds`.",
}
MOVED = (
    "MoCo v2's rates were moved lower by hand, after an earlier search had ended at "
    "its lowest, and DenseCL has the same; those of other rows were not moved."
)
PURPOSES = {
    "small-seeds": "This scale asks which of `small`'s differences come again over "
    "several pre-trainings, and with one learning rate for MCL and the rows that "
    "change a part of it. Data, networks and lengths are those of `small`, with all "
    "labels alone. Where a row has the rate that it has in `small`, seed 0 of "
    "pre-training has the same settings, on another machine. Fine-tunings do not: they "
    "are evaluated once, at the end, which changes what they draw. Each pre-training "
    "is fine-tuned several times, because fine-tunings of one pre-training differ.",
    "small-longer": "This scale asks whether MCL's lead is one of short fine-tunings "
    "alone. Its pre-trainings have the settings of those of `small-seeds`, and as many "
    "fine-tunings, of twice the steps.",
    "small-restart": "This scale asks whether more pre-training does more for MCL than "
    "for DenseCL: MCL's pre-trainings in `small-seeds` differ in how far they came. A "
    "pre-training is one of those and a second cycle of as many steps (warm restarts, "
    "arXiv 1608.03983): it starts from their weights, warm-up, cosine and the schedule "
    "of MCL's average begin anew, the optimizer's momentum is not kept, queues are, "
    "and the same pictures come in another order and in other views. Fine-tunings are "
    "as long as those of `small-longer`, six in place of nine. MCL's row was run "
    "twice; the first run was taken back, because of an error that the notes describe.",
}
CHOSEN_BY_HAND = ("small",)
VIEWS = (
    "Each method has its own published augmentations, with the blur scaled to the size "
    "of the crops; BYOL here takes MoCo v2's views. The queue of MoCo v2 and DenseCL "
    "is as short as one round over the cut-outs, because the images of a round share "
    "their ground: those of other rounds would be told apart by theirs."
)
BY_HAND = (
    "Optimizer and weight decay, and the lengths of all trainings, were set by hand "
    "after trials with MCL, supervised classification and the random start alone; what "
    'was seen in them is under "What moved it". The length of fine-tuning was chosen '
    "after MCL had shown no lead at twice that length, with an earlier protocol. "
    "Augmentations, temperatures and the assignment of tiles are those of the configs, "
    "and no others were tried."
)
AGNOSTIC = (
    "Class-agnostic AP is of the same detections, with classes ignored in matching; "
    "their non-maximum suppression was by class."
)
RECOGNITION = (
    "kNN is the recognition of instances: pictures of known cut-outs, on other crops "
    f"of the same grounds, get the vote of their {NEIGHBORS} nearest neighbours among "
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


def card(facts: dict[str, Any]) -> Iterable[str]:
    """Facts of the data card, a list item each."""
    yield f"Pictures: {counts(facts['images'])}."
    yield f"Objects in the scenes: {counts(facts['objects'])}."
    yield f"Classes: {len(facts['categories'])}."
    yield f"Photographs and textures as grounds: {grounds(facts['grounds'])}."
    yield f"Options: {settings(facts['options'])}."
    yield f"Made with {settings(facts['versions'])}."


def grounds(names: list[str]) -> str:
    """How many grounds a card names, by the folder that they are in."""
    return counts(Counter(name.rpartition("/")[0] for name in names))


def composed(options: dict[str, Any]) -> str:
    """What the pictures show, in words."""
    least, most = options["smallest"], SceneRules.scale[1]
    origin = (
        f"The data set, **{DATA_SET}**, is composed by `tools/scenes/make_scenes.py`: "
        "cut-out photographs of Debian's `tuxpaint-stamps-default` on crops of "
        "photographs and textures of four more packages, whose versions and files "
        "`tools/replication/materials.json` names."
    )
    objects = (
        f"A picture of pre-training is {options['object_size']} pixels long and shows "
        f"one object, whose longest side is {options['main']:g} to {MAIN_SCALE[1]:g} "
        "of the picture's shorter one; some have a small object behind it, of their "
        "set's cut-outs. Pictures of a round over the cut-outs share a ground."
    )
    scenes = (
        f"A scene has a side of {options['scene_size']} pixels, 1 to "
        f"{options['objects']} objects and at most {options['distractors']} "
        "distractors, which are shards of other grounds. The longest side of an object "
        f"is {least:g} to {most:g} of the scene's, 1 : {most / least:.1f}, and at "
        f"least {percent(MIN_VISIBLE)} of each object is visible."
    )
    reserved = (
        "A fifth of the cut-outs of a class, by file, is in `val` alone; the other "
        "sets, those of pre-training and of detection training, never show them."
    )
    parts = [origin, objects, scenes, reserved if options["split_cutouts"] else ""]
    return " ".join(parts)


def data(scale: Scale, scales: list[Scale]) -> list[str]:
    """Paragraphs on the data set, said once of scales that share it."""
    alike = [other for other in scales if scale.shares_data(other) and other.data]
    if not alike:
        return [paragraph("There is no data card beside these results.")]
    if alike[0].name != scale.name:
        same = f"The data set is that of `{alike[0].name}`, of the same checksums."
        return [paragraph(f"{same} {sameness(scale)}")]
    facts = scale.data["card"]
    items = "\n".join(map(bullet, card(facts)))
    alike = f"{ONE_SET} {sameness(scale)}".strip()
    return [
        paragraph(composed(facts["options"])),
        items,
        tables.checksums(facts["sha256"]),
        paragraph(alike),
    ]


def sameness(scale: Scale) -> str:
    """On how many kinds of processor rows had these data; empty of one."""
    machines = [row.get("machine") or {} for row in scale.rows.values()]
    cpus = {found["cpu_flags"] for found in machines if found.get("cpu_flags")}
    if len(cpus) < 2:
        return ""
    return f"Rows ran with them on {len(cpus)} kinds of processor."


def search(scale: Scale) -> list[str]:
    """Paragraphs on the search of the learning rate."""
    if scale.name in GIVEN_RATES:
        return [paragraph(GIVEN_RATES[scale.name])]
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
    if close := tables.close_searches(scale):
        text += (
            " The best is ahead of the next by less than the standard error of the "
            "difference of two such figures, so that chance may well have chosen, for: "
            f"{'; '.join(close)}."
        )
    if scale.name in CHOSEN_BY_HAND:
        text += f" {MOVED}"
    return [paragraph(text), tables.searches(scale)]


def cost(scale: Scale, scales: list[Scale]) -> list[str]:
    """Paragraphs on what each row took."""
    longest = max(map(tables.whole_hours, scale.rows.values()))
    text = (
        f"The trainings of all rows add up to {hours(scale):.1f} hours; what several "
        f"rows share is counted once.{counted_before(scale, scales)} Seconds are those "
        "of training steps alone. Hours of a whole row are those of its search, "
        "pre-trainings and fine-tunings one after another, with evaluation where it "
        f"was timed, and with what it shares; the longest row has {longest:.1f}, and "
        "`--rows NAME` runs one alone. The machine is the one on which a row ended; "
        "how many stages ran at a time there is said below. Multiply-adds are those of "
        "forward and backward passes of pre-training."
    )
    machines = [
        bullet(f"{letter}: {words}.")
        for words, letter in tables.machine_names(scale).items()
    ]
    return [paragraph(text), tables.costs(scale), "\n".join(machines)]


def hours(scale: Scale) -> float:
    """What all rows took: searches, pre-trainings and fine-tunings."""
    return sum(trainings(scale).values()) / 3600


def trainings(scale: Scale) -> dict[str, float]:
    """Seconds of every training by its figures.

    Rows may share a search or a pre-training (a part of its weights is transferred),
    and then their files agree in it.
    """
    found = {}
    for row, content in scale.rows.items():
        before = scale.pretraining(row)
        trained = [r for run in before.get("runs") or [before] for r in cycles_of(run)]
        for part in (*trained, *(before.get("search") or [])):
            found[figures(part)] = part.get("seconds") or 0
        for run in content.get("finetuning", []):
            found[f"{row} {figures(run)}"] = run.get("seconds") or 0
    return found


def figures(training: dict) -> str:
    """What tells a training from others."""
    return json.dumps(without_key(training), sort_keys=True)


def counted_before(scale: Scale, scales: list[Scale]) -> str:
    """Hours of trainings that earlier scales have; empty of none."""
    own, found, names = trainings(scale), {}, []
    for other in scales[: scales.index(scale)]:
        theirs = trainings(other)
        common = {name: own[name] for name in own if name in theirs and own[name]}
        if common:
            found |= common
            names.append(f"`{other.name}`")
    if not found:
        return ""
    return (
        f" Of these hours {sum(found.values()) / 3600:.1f} are those of trainings that "
        f"are counted in {' or '.join(names)}, too."
    )


def protocol(scale: Scale, scales: list[Scale]) -> list[str]:
    """Paragraphs on data, pre-training and fine-tuning."""
    own = [
        *data(scale, scales),
        paragraph(f"{pretrainings(scale)} {cycles(scale)}"),
        tables.lengths(scale),
        tables.tunings(scale),
    ]
    if scale.pretrainings > 1:
        return [*own, paragraph(THE_REST)]
    return [
        *own,
        paragraph(f"{VIEWS} {momenta()} {by_hand(scale)}"),
        paragraph(f"{RECOGNITION} {AGNOSTIC}"),
        paragraph(PAPER),
    ]


def by_hand(scale: Scale) -> str:
    """What was chosen without a search, where it was chosen by trials."""
    return BY_HAND if scale.name in CHOSEN_BY_HAND else ""


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
    return [paragraph(PURPOSES[scale.name])] if scale.name in PURPOSES else []


def pretrainings(scale: Scale) -> str:
    """What the spread of the seeds holds."""
    return PRETRAININGS if scale.pretrainings > 1 else ONE_PRETRAINING


def cycles(scale: Scale) -> str:
    """What steps, images and seeds mean of several cycles; empty of one."""
    if scale.cycles == 1:
        return ""
    return (
        "Steps, images and seconds of a pre-training are summed over its "
        f"{scale.cycles} cycles. The second cycle of seed k is run with seed "
        f"k + {scale.pretrainings}."
    )


def within(scale: Scale) -> list[str]:
    """The section of fine-tunings from one pre-training."""
    groups = [g for row in scale.rows for g in scale.groups(row).values()]
    if scale.pretrainings == 1 or max(map(len, groups), default=0) < 2:
        return []
    found = tables.within_pretrainings(scale)
    return ["### Fine-tunings of each pre-training", paragraph(WITHIN), found]


def missing(scale: Scale) -> str:
    """Which rows were not run, or not wholly; empty where there is all."""
    lacking = [TITLES[row] for row in scale.planned if row not in scale.rows]
    part = [
        f"{TITLES[row]} ({found} of {counted(scale.wanted, 'fine-tuning')})"
        for row, content in scale.rows.items()
        if (found := len(content["finetuning"])) < scale.wanted
    ]
    kinds = {"Not run": lacking, "Not complete": part}
    return " ".join(f"{kind}: {'; '.join(n)}." for kind, n in kinds.items() if n)
