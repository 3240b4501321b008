"""Compose a small data set for pre-training and instance segmentation.

Objects are pasted onto crops of the photographs that scikit-image ships inside
its wheel, so nothing is downloaded. Under OUT come ``pretrain/`` (unlabeled
pictures of one main object), ``train/`` and ``val/`` (scenes of 1 to 6
objects), ``annotations/train.json`` and ``annotations/val.json`` (COCO format,
masks respect occlusion) and ``card.json`` (options, counts, checksums).

With ``--split-cutouts`` 20 % of the cut-outs of a class are seen in ``val/`` only, the
others elsewhere. ``pretrain/`` is then sorted into folders, CLASS/CUT-OUT/, with
equally many pictures each, and pictures of one name have one ground: it cannot tell
them apart. ``probe/`` is sorted likewise; its pictures, of the same cut-outs on other
crops, serve to judge features. ``--per-ground N`` shares grounds without the split.

Every picture draws from its own random generator, seeded with
(seed, split, index): the bytes do not depend on the number of workers. They
may differ between versions of NumPy, OpenCV and Pillow, which the card names.

    python tools/scenes/make_scenes.py OUT --pretrain 3000 --train 400 --val 200
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
import skimage
from compose import (
    GROUNDS,
    MAIN_SCALE,
    Fixed,
    SceneRules,
    compose_object,
    compose_scene,
    describe,
    load_grounds,
)
from cutouts import DrawnCutouts, FolderCutouts, digest_files
from PIL import Image

FORMAT = 2  # raise when the same options would give other pictures
SPLITS = ("pretrain", "train", "val", "probe")  # a new one goes to the end
SCENES = ("train", "val")
# The part of every class's cut-outs that a split draws from.
PARTS = dict(pretrain=(0, 0.8), train=(0, 0.8), val=(0.8, 1), probe=(0, 0.8))
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Options:
    """What decides the content of a data set.

    ``pretrain``, ``train``, ``val`` and ``probe`` are numbers of pictures; the sizes
    are the longest side in pixels; ``cutouts`` is a folder or None (drawn by code);
    ``classes`` is ``all`` or ``one`` (every object is an ``object``); ``grounds`` is
    a folder with photographs in ``train/`` and ``val/``, or None (scikit-image's);
    ``split_cutouts`` gives ``val`` its own cut-outs; ``leave_out`` names cut-outs that
    are not used, CLASS/NAME with commas between; ``objects`` and
    ``distractors`` are the most of a scene; ``smallest`` and ``main`` are the least
    that an object's longest side measures, by the side of the scene, and the main
    object's by the shorter side of its picture; ``per_ground`` is how many ``pretrain``
    pictures share a ground, 0: none (with ``split_cutouts``: one of every cut-out).
    """

    pretrain: int = 3000
    train: int = 400
    val: int = 200
    object_size: int = 128
    scene_size: int = 160
    seed: int = 0
    cutouts: str | None = None
    classes: str = "all"
    probe: int = 0
    grounds: str | None = None
    split_cutouts: bool = False
    objects: int = 6
    distractors: int = 0
    smallest: float = 0.16
    main: float = 0.4
    leave_out: str = ""
    per_ground: int = 0

    def __post_init__(self):
        from_zero = (*SPLITS, "seed", "distractors", "per_ground")
        lowest = dict.fromkeys(from_zero, 0) | dict(
            object_size=32, scene_size=64, objects=1
        )
        for name, low in lowest.items():
            if getattr(self, name) < low:
                flag = name.replace("_", "-")
                raise ValueError(
                    f"--{flag} is {getattr(self, name)}; give an integer of at "
                    f"least {low}."
                )
        if self.classes not in ("all", "one"):
            raise ValueError(f"--classes is {self.classes!r}; give 'all' or 'one'.")
        if not 0.02 <= self.smallest <= 0.5:
            raise ValueError(f"--smallest is {self.smallest}; give 0.02 to 0.5.")
        if not 0.1 <= self.main <= MAIN_SCALE[1]:
            raise ValueError(f"--main is {self.main}; give 0.1 to {MAIN_SCALE[1]}.")
        if self.split_cutouts and not self.cutouts:
            raise ValueError("--split-cutouts needs --cutouts DIR.")
        if self.leave_out and not self.cutouts:
            raise ValueError("--leave-out needs --cutouts DIR.")
        if self.probe and not self.split_cutouts:
            raise ValueError(f"--probe is {self.probe}; it needs --split-cutouts.")
        if self.per_ground and self.split_cutouts:
            raise ValueError(
                f"--per-ground is {self.per_ground}; with --split-cutouts pictures of "
                "all cut-outs share grounds, leave it out."
            )

    @property
    def rules(self):
        """What its scenes hold."""
        return SceneRules(
            (1, self.objects),
            (self.smallest, SceneRules.scale[1]),
            (0, self.distractors),
        )


def open_source(options):
    """The cut-outs that ``options`` ask for."""
    if not options.cutouts:
        return DrawnCutouts()
    left_out = [name for name in options.leave_out.split(",") if name]
    return FolderCutouts(options.cutouts, left_out)


def open_grounds(options):
    """The photographs of the training splits and of ``val``, by split."""
    if options.grounds is None:
        return dict.fromkeys(SPLITS, load_grounds())
    folder = Path(options.grounds)
    return dict.fromkeys(SPLITS, load_grounds(folder / "train")) | dict(
        val=load_grounds(folder / "val")
    )


class Composer:
    """Writes single pictures of a data set; one per process."""

    def __init__(self, out, options):
        self.out, self.options = Path(out), options
        # Its results are not those of builds without it, on other processors say.
        cv2.ipp.setUseIPP(False)
        source = open_source(options)
        self.sources = dict.fromkeys(SPLITS, source)
        if options.split_cutouts:
            self.sources = {s: source.part(*PARTS[s]) for s in SPLITS}
        self.grounds = open_grounds(options)

    def make(self, job):
        """Write picture ``index`` of a split; returns its annotations."""
        split, index = job
        rng = np.random.default_rng([self.options.seed, SPLITS.index(split), index])
        write = self.make_scene if split in SCENES else self.make_object
        return write(rng, split, index)

    def make_object(self, rng, split, index):
        """Write a picture of one main object."""
        source, grounds = self.sources[split], self.grounds[split]
        folder, main, name = self.out / split, None, index
        size, scale = self.options.object_size, (self.options.main, MAIN_SCALE[1])
        if self.options.split_cutouts:
            name, number = divmod(index, len(source))
            label, stem, main = source.single(number)
            folder = folder / source.names[label] / stem
        elif self.options.per_ground:
            name, number = divmod(index, self.options.per_ground)
            folder = folder / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        together = self.options.split_cutouts or self.options.per_ground
        if together and split == "pretrain":
            seed = [self.options.seed, len(SPLITS), name]
            grounds = Fixed(grounds.sample(np.random.default_rng(seed), size, size))
        image = compose_object(rng, source, grounds, size, main, scale)
        save(image, folder, name)
        return []

    def make_scene(self, rng, split, index):
        """Write a scene; returns what is annotated on it."""
        image, owner, classes = compose_scene(
            rng,
            self.sources[split],
            self.grounds[split],
            self.options.scene_size,
            self.options.rules,
        )
        if self.options.classes == "one":
            classes = [0] * len(classes)
        save(image, self.out / split, index)
        return describe(owner, classes)


def save(image, folder, index):
    """Write an RGB array as picture ``index`` of a folder."""
    file = folder / picture_name(index)
    Image.fromarray(image).save(file, quality=JPEG_QUALITY)


def picture_name(index):
    """File name of picture ``index`` of a split."""
    return f"{index:06d}.jpg"


def start_process(out, options):
    """Prepare a worker process; it holds its composer in a global."""
    global composer
    cv2.setNumThreads(1)
    composer = Composer(out, options)


def run_job(job):
    """Make one picture in a worker process."""
    return composer.make(job)


def make_pictures(out, options, workers):
    """Write all pictures; returns the annotation lists per split, in order."""
    jobs = [(s, k) for s in SPLITS for k in range(getattr(options, s))]
    if workers == 1:
        notes = list(map(Composer(out, options).make, jobs))
    else:
        context = multiprocessing.get_context("spawn")
        setup = dict(initializer=start_process, initargs=(out, options))
        with ProcessPoolExecutor(workers, context, **setup) as pool:
            notes = list(pool.map(run_job, jobs, chunksize=16))
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
    sets = {s: sorted((out / s).rglob("*.jpg")) for s in SPLITS if (out / s).is_dir()}
    for split in SCENES:
        sets[f"annotations/{split}.json"] = [out / "annotations" / f"{split}.json"]
    return {
        name: digest_files([f for f in files if f.is_file()])
        for name, files in sets.items()
    }


def card_options(options, source):
    """Options as the card keeps them: a folder by its name and content."""
    folder = options.cutouts and Path(options.cutouts).resolve().name
    content = dict(cutouts=folder, cutouts_sha256=source.digest, format=FORMAT)
    if options.grounds:
        files = [f for f in Path(options.grounds).rglob("*") if f.is_file()]
        content["grounds"] = Path(options.grounds).resolve().name
        content["grounds_sha256"] = digest_files(sorted(files))
    return asdict(options) | content


def make_card(out, options, source, notes, names):
    """All that ``card.json`` says about a finished data set."""
    reuse = (
        "Objects are drawn anew for every picture; train and val share the drawing "
        "code and the grounds, not the drawings."
    )
    if options.cutouts:
        reuse = (
            "pretrain, train and val draw from the same cut-outs and grounds: val "
            "measures new arrangements of known objects, not new objects."
        )
    if options.split_cutouts:
        reuse = "val shows cut-outs that no other split shows."
    grounds = [f"skimage/data/{name}" for name in GROUNDS]
    if options.grounds:
        files = sorted(Path(options.grounds).rglob("*.*"))
        grounds = [f.relative_to(options.grounds).as_posix() for f in files]
    return dict(
        options=card_options(options, source),
        images={s: len(notes[s]) for s in SPLITS if notes[s] or s != "probe"},
        objects={split: sum(map(len, notes[split])) for split in SCENES},
        categories=names,
        reuse=reuse,
        grounds=grounds,
        versions=dict(
            numpy=np.__version__,
            opencv=cv2.__version__,
            pillow=PIL.__version__,
            scikit_image=skimage.__version__,
        ),
        sha256=digest_sets(out),
    )


def read_card(file):
    """Read a ``card.json``.

    Raises:
        ValueError: the file is no card of this tool.
    """
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        card = {}
    if not {"options", "images", "sha256"} <= set(card):
        raise ValueError(
            f"{file} is no card of this tool; name a new or empty folder as OUT."
        )
    return card


def is_complete(out, options, source, overwrite):
    """Whether OUT already holds this data set.

    Raises:
        ValueError: OUT holds something that may not be replaced.
    """
    card, partial = out / "card.json", out / "partial.json"
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT {out} is a file; name a folder.")
    if not card.is_file():
        if out.exists() and any(out.iterdir()) and not partial.is_file():
            raise ValueError(
                f"OUT {out} holds files but no card of this tool; name a new or "
                "empty folder."
            )
        return False
    stored = read_card(card)
    wanted = card_options(options, source)
    # A card of before an option was added was made with its default.
    has = asdict(Options()) | stored["options"]
    differ = [k for k in wanted if has.get(k) != wanted[k]]
    if differ and overwrite:
        return False
    if differ:
        raise ValueError(
            f"OUT {out} holds a data set made with other options "
            f"({', '.join(differ)}); name another folder or add --overwrite."
        )
    return stored["sha256"] == digest_sets(out)


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
        ValueError, FileNotFoundError: options, cut-outs or ``out`` do not fit.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}; give an integer of at least 1.")
    out, source = Path(out), open_source(options)
    card_file, partial = out / "card.json", out / "partial.json"
    if is_complete(out, options, source, overwrite):
        return read_card(card_file), False
    out.mkdir(parents=True, exist_ok=True)
    # This marker is what tells an unfinished set from a folder of somebody else.
    partial.write_text("{}\n", encoding="utf-8")
    card_file.unlink(missing_ok=True)
    for name in (*SPLITS, "annotations"):
        shutil.rmtree(out / name, ignore_errors=True)
        if name != "probe" or options.probe:
            (out / name).mkdir()
    notes = make_pictures(out, options, workers)
    names = ["object"] if options.classes == "one" else source.names
    for split in SCENES:
        file = out / "annotations" / f"{split}.json"
        write_annotations(file, notes[split], options.scene_size, names)
    card = make_card(out, options, source, notes, names)
    partial.write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    partial.replace(card_file)
    return card, True


def parse_args(argv):
    """Command line to namespace."""
    default = Options()
    parser = argparse.ArgumentParser(
        description="Compose an unlabeled object set and COCO scenes, offline."
    )
    parser.add_argument("out", metavar="OUT", help="folder of the data set")
    for split in SPLITS:
        parser.add_argument(
            f"--{split}",
            type=int,
            default=getattr(default, split),
            help=f"number of {split} pictures (default %(default)s)",
        )
    parser.add_argument(
        "--object-size",
        type=int,
        default=default.object_size,
        help="longest side of pretrain pictures (default %(default)s)",
    )
    parser.add_argument(
        "--scene-size",
        type=int,
        default=default.scene_size,
        help="side of the scenes in px (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument(
        "--cutouts",
        metavar="DIR",
        help="folder of RGBA cut-outs, a sub-folder per class (default: drawn by code)",
    )
    parser.add_argument(
        "--classes",
        choices=("all", "one"),
        default=default.classes,
        help="'one' calls every object 'object'",
    )
    parser.add_argument(
        "--grounds",
        metavar="DIR",
        help="folder with photographs in train/ and val/ (default: scikit-image's)",
    )
    parser.add_argument(
        "--split-cutouts",
        action="store_true",
        help="val shows cut-outs that no other split shows",
    )
    parser.add_argument(
        "--leave-out",
        metavar="CLASS/NAME,...",
        default=default.leave_out,
        help="cut-outs that are not used",
    )
    for name, text in dict(
        objects="most objects of a scene", distractors="most distractors of a scene"
    ).items():
        parser.add_argument(
            f"--{name}",
            type=int,
            default=getattr(default, name),
            help=f"{text} (default %(default)s)",
        )
    parser.add_argument(
        "--smallest",
        type=float,
        default=default.smallest,
        help="smallest object by the scene's side (default %(default)s)",
    )
    parser.add_argument(
        "--main",
        type=float,
        default=default.main,
        help="smallest main object by its picture's shorter side (default %(default)s)",
    )
    parser.add_argument(
        "--per-ground",
        type=int,
        default=default.per_ground,
        metavar="N",
        help="pretrain pictures that share a ground, in folders 0000/ to N - 1, named "
        "by their ground; for ReplayableSampler's same_names (default: own grounds)",
    )
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a data set made with other options",
    )
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; returns the exit status."""
    given = vars(parse_args(argv))
    out, workers = given.pop("out"), given.pop("workers")
    overwrite, start = given.pop("overwrite"), time.perf_counter()
    try:
        card, written = build(out, Options(**given), workers, overwrite)
    except (OSError, ValueError) as error:
        print(f"make_scenes: {error}", file=sys.stderr)
        return 1
    count = ", ".join(f"{number} {split}" for split, number in card["images"].items())
    if written:
        took = time.perf_counter() - start
        print(f"{out}: wrote {count} pictures in {took:.1f} s.")
    else:
        print(f"{out}: complete with these options ({count} pictures), nothing to do.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
