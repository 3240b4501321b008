"""The rows of the replication in the order of its tables: names, titles, meanings."""

from typing import NamedTuple


class Row(NamedTuple):
    """What a detector starts from.

    Attributes:
        name: of its result file, ``<name>.json``.
        title: in tables and plots.
        line: what is done, in a few words.
    """

    name: str
    title: str
    line: str


ROWS = (
    Row("random", "random start", "no pre-training"),
    Row("mcl", "MCL", "the method; backbone, FPN and box convs are transferred"),
    Row("mocov2", "MoCo v2", "MMPretrain's, as many images seen as MCL"),
    Row("densecl", "DenseCL", "MMPretrain's, as many images seen as MCL"),
    Row("byol", "BYOL", "MMPretrain's, as many images seen as MCL"),
    Row("sup", "supervised classification", "the images' classes are learned"),
    Row("mcl-sup", "supervised MCL", "each tile's class is learned on the montage"),
    Row(
        "mcl-sup-compute",
        "supervised MCL with MCL's compute",
        "as many multiply-adds as MCL",
    ),
    Row("mocov2-compute", "MoCo v2 with MCL's compute", "as many multiply-adds as MCL"),
    Row("mcl-backbone", "MCL's backbone alone", "of MCL's weights the backbone alone"),
    Row(
        "mcl-level1",
        "MCL with one level",
        "the images alone, no smaller tiles; the FPN's convs of P2 to P4 are random",
    ),
    Row(
        "mcl-level1-backbone",
        "one-level MCL's backbone alone",
        "of the weights of MCL with one level the backbone alone",
    ),
    Row("mcl-crops", "MCL on stacked crops", "small crops in a batch, no montage"),
    Row(
        "mcl-full", "MCL with full computation", "all tiles of all canvases and levels"
    ),
    Row(
        "mcl-half-batch",
        "MCL with half the batch",
        "half as many images in a step, twice the steps",
    ),
    Row("mcl-quarter", "MCL a quarter as long", "a quarter of MCL's steps"),
    Row("mocov2-quarter", "MoCo v2 a quarter as long", "a quarter of MoCo v2's steps"),
)
NAMES = tuple(row.name for row in ROWS)
TITLES = {row.name: row.title for row in ROWS}
