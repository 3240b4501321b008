"""Compose a small data set for pre-training and instance segmentation.

    python -m projects.quickstart.make_scenes OUT --pretrain 3000 --train 400 --val 200

Objects are pasted onto crops of photographs. The folder OUT gets pretrain/ (pictures of
one main object), train/ and val/ (scenes), annotations/ (COCO format, masks of the
visible pixels), on request probe/ (as pretrain/ on other grounds, to judge features by)
and card.json (options, counts, checksums).

A picture's random numbers depend on (seed, split, index) only: the bytes are the same
for any number of processes. They may differ between versions of NumPy, OpenCV and
Pillow; the card names these.
"""

import argparse
import json
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import cv2
import numpy as np
import PIL
import skimage
from PIL import Image

from mcl.errors import InputError, run_cli

from .compose import (
    GROUNDS,
    LARGEST_MAIN,
    Fixed,
    compose_object,
    compose_scene,
    describe,
    load_grounds,
)
from .cutouts import DrawnCutouts, FolderCutouts, digest_files

FORMAT = 2  # raise when the same options would give other pictures
SPLITS = ("pretrain", "train", "val", "probe")  # a new one goes to the end
SCENES = ("train", "val")
# The part of every class's cut-outs that a split samples from.
PARTS = dict(pretrain=(0, 0.8), train=(0, 0.8), val=(0.8, 1), probe=(0, 0.8))
JPEG_QUALITY = 92


def option(default, text, low=None, high=None):
    """A field of :class:`Options`: its default, help and range."""
    return field(default=default, metadata=dict(text=text, low=low, high=high))


@dataclass(frozen=True)
class Options:
    """What decides the content of a data set; each field is an option of the command.

    Raises:
        InputError: a value is out of its range, or two do not go together.
    """

    pretrain: int = option(3000, "number of pictures", 0)
    train: int = option(400, "number of scenes", 0)
    val: int = option(200, "number of scenes", 0)
    object_size: int = option(128, "longest side of a pretrain picture, px", 32)
    scene_size: int = option(160, "side of a scene, px", 64)
    seed: int = option(0, "of all random numbers", 0)
    cutouts: str | None = option(
        None, "folder of RGBA cut-outs, a sub-folder per class; by default drawn"
    )
    classes: str = option("all", "all, or one: every object is an 'object'")
    probe: int = option(0, "number of pictures; needs --split-cutouts", 0)
    grounds: str | None = option(
        None, "folder of photographs in train/ and val/; by default scikit-image's"
    )
    split_cutouts: bool = option(False, "val shows cut-outs that no other split shows")
    objects: int = option(6, "most objects of a scene", 1)
    distractors: int = option(0, "most distractors of a scene", 0)
    smallest: float = option(0.16, "smallest object by the scene's side", 0.02, 0.5)
    main: float = option(
        0.4, "smallest main object by its picture's shorter side", 0.1, LARGEST_MAIN
    )
    leave_out: str = option("", "cut-outs that are not used: CLASS/NAME,...")
    per_ground: int = option(0, "pretrain pictures that share a ground; 0: none", 0)

    def __post_init__(self):
        for one in fields(self):
            value, flag = getattr(self, one.name), flag_of(one)
            low, high = one.metadata["low"], one.metadata["high"]
            if low is not None and not low <= value <= (high or value):
                limits = f">= {low}" if high is None else f"from {low} to {high}"
                raise InputError(f"{flag} must be {limits}, got {value}")
        if self.classes not in ("all", "one"):
            raise InputError(f"--classes must be all or one, got {self.classes}")
        for name, needed in dict(
            split_cutouts="cutouts", leave_out="cutouts", probe="split_cutouts"
        ).items():
            if getattr(self, name) and not getattr(self, needed):
                name, needed = (n.replace("_", "-") for n in (name, needed))
                raise InputError(f"--{name} needs --{needed}; give both")
        if self.per_ground and self.split_cutouts:
            raise InputError(
                f"--per-ground {self.per_ground}: with --split-cutouts grounds are "
                "shared already; leave it out"
            )


def flag_of(one):
    """The command's option for a field of :class:`Options`."""
    return "--" + one.name.replace("_", "-")


def open_cutouts(options):
    """The cut-outs that ``options`` ask for."""
    if not options.cutouts:
        return DrawnCutouts()
    left_out = [name for name in options.leave_out.split(",") if name]
    return FolderCutouts(options.cutouts, left_out)


class Composer:
    """Writes single pictures of a data set."""

    def __init__(self, out, options, source):
        self.out, self.options = out, options
        # IPP's results are not those of builds without it, on other processors say.
        cv2.ipp.setUseIPP(False)
        # Threads do not survive a fork.
        cv2.setNumThreads(1)
        self.sources = dict.fromkeys(SPLITS, source)
        if options.split_cutouts:
            self.sources = {s: source.part(*PARTS[s]) for s in SPLITS}
        folder = options.grounds and Path(options.grounds)
        grounds = load_grounds(folder and folder / "train")
        self.grounds = dict.fromkeys(SPLITS, grounds)
        if folder:
            self.grounds["val"] = load_grounds(folder / "val")

    def make(self, job):
        """Write picture ``index`` of a split; returns its annotations."""
        split, index = job
        rng = np.random.default_rng([self.options.seed, SPLITS.index(split), index])
        write = self.make_scene if split in SCENES else self.make_object
        return write(rng, split, index)

    def make_object(self, rng, split, index):
        """Write a picture of one main object; it has no annotations."""
        options, folder, name, main = self.options, self.out / split, index, None
        source, grounds = self.sources[split], self.grounds[split]
        if options.split_cutouts:
            name, number = divmod(index, len(source))
            label, stem, main = source.single(number)
            folder = folder / source.names[label] / stem
        elif options.per_ground:
            name, number = divmod(index, options.per_ground)
            folder = folder / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        size = options.object_size
        if split == "pretrain" and (options.split_cutouts or options.per_ground):
            ground_rng = np.random.default_rng([options.seed, len(SPLITS), name])
            grounds = Fixed(grounds.sample(ground_rng, size, size))
        image = compose_object(rng, source, grounds, size, options.main, main)
        save(image, folder, name)
        return []

    def make_scene(self, rng, split, index):
        """Write a scene; returns what is annotated on it."""
        options = self.options
        image, owner, classes = compose_scene(
            rng,
            self.sources[split],
            self.grounds[split],
            options.scene_size,
            options.smallest,
            options.objects,
            options.distractors,
        )
        save(image, self.out / split, index)
        if options.classes == "one":
            classes = [0] * len(classes)
        return describe(owner, classes)


def save(image, folder, index):
    """Write an RGB array as picture ``index`` of a folder."""
    Image.fromarray(image).save(folder / picture_name(index), quality=JPEG_QUALITY)


def picture_name(index):
    """File name of picture ``index`` of a split."""
    return f"{index:06d}.jpg"


def share(composer):
    """Keep the composer of a worker process."""
    global shared
    shared = composer


def make_shared(job):
    """Make a picture in a worker process."""
    return shared.make(job)


def make_pictures(composer, workers):
    """Write all pictures; returns the annotation lists per split, in order."""
    jobs = [(s, k) for s in SPLITS for k in range(getattr(composer.options, s))]
    if workers == 1:
        notes = map(composer.make, jobs)
    else:
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(workers, context, share, (composer,)) as pool:
            notes = pool.map(make_shared, jobs, chunksize=16)
    found = {split: [] for split in SPLITS}
    for (split, _), note in zip(jobs, notes, strict=True):
        found[split].append(note)
    return found


def write_annotations(file, notes, side, names):
    """Write one COCO file; ids count from 1 in the order of the pictures."""
    images = [
        dict(id=k + 1, file_name=picture_name(k), height=side, width=side)
        for k in range(len(notes))
    ]
    pairs = [(k + 1, note) for k, group in enumerate(notes) for note in group]
    annotations = [
        dict(id=n + 1, image_id=k, **note) for n, (k, note) in enumerate(pairs)
    ]
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(names)]
    content = dict(images=images, annotations=annotations, categories=categories)
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")


def digest_sets(out):
    """SHA-256 per file set: the files of a set joined in the order of names."""
    sets = {s: (out / s).rglob("*.jpg") for s in SPLITS if (out / s).is_dir()}
    notes = [f"annotations/{split}.json" for split in SCENES]
    sets |= {name: out.glob(name) for name in notes}
    return {name: digest_files(sorted(files)) for name, files in sets.items()}


def card_options(options, source):
    """Options as the card keeps them: a folder by its name and content."""
    folder = options.cutouts and Path(options.cutouts).resolve().name
    content = dict(cutouts=folder, cutouts_sha256=source.digest, format=FORMAT)
    if options.grounds:
        files = sorted(f for f in Path(options.grounds).rglob("*") if f.is_file())
        content["grounds"] = Path(options.grounds).resolve().name
        content["grounds_sha256"] = digest_files(files)
    return asdict(options) | content


def make_card(out, options, source, notes, names):
    """All that ``card.json`` says about a finished data set."""
    grounds = [f"skimage/data/{name}" for name in GROUNDS]
    if options.grounds:
        files = sorted(Path(options.grounds).rglob("*.*"))
        grounds = [f.relative_to(options.grounds).as_posix() for f in files]
    return dict(
        options=card_options(options, source),
        images={s: len(notes[s]) for s in SPLITS if notes[s] or s != "probe"},
        objects={split: sum(map(len, notes[split])) for split in SCENES},
        categories=names,
        grounds=grounds,
        versions=dict(
            numpy=np.__version__,
            opencv=cv2.__version__,
            pillow=PIL.__version__,
            scikit_image=skimage.__version__,
        ),
        sha256=digest_sets(out),
    )


def read_card(out):
    """The card of the data set in OUT; None for a new, empty or unfinished folder.

    Raises:
        InputError: OUT holds something else.
    """
    if (out / "card.json").is_file():
        try:
            card = json.loads((out / "card.json").read_text(encoding="utf-8"))
        except ValueError:
            card = {}
        if {"options", "images", "sha256"} <= set(card):
            return card
    elif not out.exists() or (out / "partial.json").is_file():
        return None
    elif out.is_dir() and not any(out.iterdir()):
        return None
    raise InputError(f"OUT {out}: it is no data set; name a new or empty folder")


def build(out, options, workers=1, overwrite=False):
    """Make the data set in folder ``out`` unless it is already there.

    A set that was begun but not finished, or lacks files, is made anew.

    Args:
        out: folder; created if missing.
        options: an :class:`Options`.
        workers: number of processes, at least 1.
        overwrite: replace a data set made with other options.

    Returns:
        The card (dict) and whether anything was written (bool).

    Raises:
        InputError: options, cut-outs or ``out`` do not fit.
    """
    if workers < 1:
        raise InputError(f"--workers must be >= 1, got {workers}")
    out, source = Path(out), open_cutouts(options)
    if stored := read_card(out):
        # A card of before an option was added was made with its default.
        has = asdict(Options()) | stored["options"]
        wanted = card_options(options, source)
        differ = [k for k in wanted if has.get(k) != wanted[k]]
        if differ and not overwrite:
            raise InputError(
                f"OUT {out}: it holds a data set made with other options "
                f"({', '.join(differ)}); name another folder or add --overwrite"
            )
        if not differ and stored["sha256"] == digest_sets(out):
            return stored, False
    composer = Composer(out, options, source)
    card_file, partial = out / "card.json", out / "partial.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"OUT {out}: it cannot be made ({error})") from error
    # This marker is what tells an unfinished set from a folder of somebody else.
    partial.write_text("{}\n", encoding="utf-8")
    card_file.unlink(missing_ok=True)
    for name in (*SPLITS, "annotations"):
        shutil.rmtree(out / name, ignore_errors=True)
        if name != "probe" or options.probe:
            (out / name).mkdir()
    notes = make_pictures(composer, workers)
    names = ["object"] if options.classes == "one" else source.names
    for split in SCENES:
        file = out / "annotations" / f"{split}.json"
        write_annotations(file, notes[split], options.scene_size, names)
    card = make_card(out, options, source, notes, names)
    partial.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    partial.replace(card_file)
    return card, True


def parse_args():
    """Command line to OUT, options, number of processes and whether to overwrite."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", metavar="OUT", help="folder of the data set")
    for one in fields(Options):
        kind = dict(action="store_true")
        if one.type is not bool:
            kind = dict(type=one.type if one.type in (int, float) else str)
            kind["metavar"] = one.name.upper()
        text = one.metadata["text"]
        parser.add_argument(flag_of(one), default=one.default, help=text, **kind)
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a data set made with other options",
    )
    return vars(parser.parse_args())


def main():
    given, start = parse_args(), time.perf_counter()
    out, workers, overwrite = map(given.pop, ("out", "workers", "overwrite"))
    card, written = build(out, Options(**given), workers, overwrite)
    count = ", ".join(f"{number} {split}" for split, number in card["images"].items())
    took = f"written in {time.perf_counter() - start:.1f} s" if written else "complete"
    print(f"{out}: {count} pictures, {took}")


if __name__ == "__main__":
    run_cli(main)
