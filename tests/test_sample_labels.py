"""A few per cent of the labels: how many, which, and the same again."""

import json

import pytest

from mcl.errors import InputError
from tools.sample_labels import read_annotations, sample

from .conftest import ROOT, run_main, run_tool

IMAGES = 200


@pytest.fixture(scope="module")
def ann_file(tmp_path_factory):
    content = dict(
        info=dict(year=2017),
        licenses=[dict(id=1)],
        categories=[dict(id=1, name="person")],
        images=[
            dict(id=3 * i, file_name=f"{i}.jpg", height=60, width=80, date="today")
            for i in range(IMAGES)
        ],
        annotations=[
            dict(id=j, image_id=3 * (j // 2), category_id=1, iscrowd=0, extra=0.1 * j)
            for j in range(2 * IMAGES)
        ],
    )
    path = tmp_path_factory.mktemp("coco") / "instances.json"
    path.write_text(json.dumps(content))
    return path


def ids(part) -> set:
    return {image["id"] for image in part["images"]}


def test_parts_are_exact_nested_and_whole(ann_file):
    whole = read_annotations(ann_file)
    parts = [sample(whole, percent, seed=1) for percent in (1, 2, 5, 10, 0.5, 100)]
    assert [len(part["images"]) for part in parts] == [2, 4, 10, 20, 1, 200]
    for part in parts:
        assert len(ids(part)) == len(part["images"])
        assert len(part["annotations"]) == 2 * len(part["images"])
        assert {a["image_id"] for a in part["annotations"]} == ids(part)
        assert all(image in whole["images"] for image in part["images"])
        assert all(a in whole["annotations"] for a in part["annotations"])
        for field in ("info", "licenses", "categories"):
            assert part[field] == whole[field]
    one, two, five, ten, half, everything = map(ids, parts)
    assert half < one < two < five < ten < everything
    assert parts[-1] == whole


def test_the_seed_and_the_ids_alone_settle_it(ann_file):
    whole = read_annotations(ann_file)
    first = ids(sample(whole, 10, seed=1))
    assert ids(sample(whole, 10, seed=2)) != first
    turned = {**whole, "images": whole["images"][::-1]}
    assert ids(sample(turned, 10, seed=1)) == first
    # the first of the order, on any machine
    assert sorted(first)[:3] == [24, 102, 120]


@pytest.mark.parametrize("percent", [0, -1, 101, 0.1, float("nan")])
def test_a_part_that_is_none_is_refused(ann_file, percent):
    with pytest.raises(InputError, match="--percent .*: that is no part of 200 images"):
        sample(read_annotations(ann_file), percent, seed=1)


def test_other_files_are_refused(ann_file, tmp_path):
    listing = tmp_path / "list.json"
    listing.write_text("[]")
    for path, words in (
        (tmp_path / "none.json", "cannot be read"),
        (ROOT / "README.md", "no JSON"),
        (listing, "COCO's format"),
    ):
        with pytest.raises(InputError, match=words):
            read_annotations(path)
    with pytest.raises(InputError, match="cannot be written"):
        run_main("tools/sample_labels.py", ann_file, listing, "--percent", 1)


@pytest.mark.parametrize(
    "images, notes, words",
    [
        ([dict(file_name="a")], [], "an image without `id`"),
        ([dict(id=1)], [dict(id=1)], "an annotation without `image_id`"),
        ([dict(id=1), dict(id=1)], [], "1 image ids come twice"),
        (None, [], "an image without `id`"),
    ],
)
def test_broken_files_are_refused(tmp_path, images, notes, words):
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(dict(images=images, annotations=notes)))
    with pytest.raises(InputError, match=words):
        read_annotations(path)


def test_the_tool_writes_a_file_for_each_part(ann_file, tmp_path, capsys):
    args = ["tools/sample_labels.py", ann_file, tmp_path / "out", "--seed", "1"]
    run_main(*args, "--percent", 1, 2.5)
    files = sorted(f.name for f in (tmp_path / "out").iterdir())
    assert files == ["instances.seed1@1.json", "instances.seed1@2.5.json"]
    assert "2 images, 4 annotations" in capsys.readouterr().out
    part = read_annotations(tmp_path / "out" / files[1])
    assert part == sample(read_annotations(ann_file), 2.5, seed=1)
    # bad input ends it in one sentence
    done = run_tool(*args, "--percent", 1, 200, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
