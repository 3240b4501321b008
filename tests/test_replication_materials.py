"""The materials of the replication: what is made, checked and left alone."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from mcl.errors import InputError
from tools.replication import materials

from .conftest import run_tool

PACKAGES = {"photographs": "1.0-1", "stamps": "2:3-4"}
LISTED = dict(
    packages=PACKAGES,
    grounds={
        "photographs": {
            "train/b-wide": "usr/share/wide.png",
            "train/a-small": "usr/share/small.jpg",
            "val/grey": "usr/share/grey.webp",
        }
    },
    cutouts={
        "stamps": {
            "bird/owl": "usr/share/stamps/Big Owl.png",
            "tree/fir": "usr/share/stamps/fir.png",
        }
    },
)
TARGETS = {
    "grounds/train/a-small.jpg",
    "grounds/train/b-wide.jpg",
    "grounds/val/grey.jpg",
    "cutouts/bird/owl.png",
    "cutouts/tree/fir.png",
}


def noise(height, width, channels=3):
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def stamp(height, width, box, alpha):
    """Noise with ``alpha`` in ``box`` (left, top, right, bottom), none around it."""
    rgba, (left, top, right, bottom) = noise(height, width, 4), box
    rgba[..., 3] = 0
    rgba[top:bottom, left:right, 3] = alpha
    return rgba


@pytest.fixture
def root(tmp_path):
    """A root folder as two unpacked packages leave it."""
    folder = tmp_path / "root"
    share = folder / "usr/share"
    (share / "stamps").mkdir(parents=True)
    Image.fromarray(noise(1100, 2003)).save(share / "wide.png")
    Image.fromarray(noise(20, 30)).save(share / "small.jpg")
    Image.fromarray(noise(40, 24)).convert("L").save(share / "grey.webp")
    owl = stamp(420, 300, (50, 10, 290, 410), 255)
    Image.fromarray(owl).save(share / "stamps/Big Owl.png")
    fir = stamp(30, 40, (5, 6, 25, 26), 33)
    fir[2, 3, 3] = 32  # a speck that is too faint to count
    Image.fromarray(fir).save(share / "stamps/fir.png")
    return folder


def files(out):
    return {
        file.relative_to(out).as_posix(): file.read_bytes()
        for file in out.rglob("*")
        if file.is_file()
    }


def opened(file):
    with Image.open(file) as picture:
        return picture.copy()


def test_all_pictures_and_a_card_of_them(root, tmp_path):
    out = tmp_path / "deep/out"
    card, written = materials.make(out, root, LISTED)
    made = files(out)
    assert written and set(made) == {*TARGETS, "card.json"}
    assert json.loads(made["card.json"]) == card
    assert card["packages"] == PACKAGES
    sets = {
        name: dict(
            files=sum(target.startswith(name) for target in TARGETS),
            sha256=hashlib.sha256(
                b"".join(made[t] for t in sorted(TARGETS) if t.startswith(name))
            ).hexdigest(),
        )
        for name in ("cutouts", "grounds/train", "grounds/val")
    }
    assert card["sets"] == sets
    assert [sets[name]["files"] for name in sets] == [2, 2, 1]


def test_grounds_are_rgb_and_their_short_side_is_bounded(root, tmp_path):
    materials.make(tmp_path / "out", root, LISTED)
    made = {
        name: opened(tmp_path / f"out/grounds/{name}.jpg")
        for name in ("train/b-wide", "train/a-small", "val/grey")
    }
    assert {(picture.mode, picture.format) for picture in made.values()} == {
        ("RGB", None)
    }
    assert made["train/b-wide"].size == (round(2003 * 1080 / 1100), 1080)
    assert made["train/a-small"].size == (30, 20)  # never enlarged
    grey = np.asarray(made["val/grey"]).astype(int)
    assert abs(grey - grey[..., :1]).max() <= 1 < grey.std()


def test_a_tall_ground_is_bounded_by_its_width():
    tall = materials.make_ground(Image.new("RGB", (2160, 3001)))
    assert tall.size == (1080, 1500)


def test_a_cutout_is_cropped_to_what_is_opaque_and_bounded(root, tmp_path):
    materials.make(tmp_path / "out", root, LISTED)
    owl = opened(tmp_path / "out/cutouts/bird/owl.png")
    assert owl.mode == "RGBA" and owl.size == (115, 192)  # a box of 240 x 400
    assert np.asarray(owl)[..., 3].min() == 255
    fir = np.asarray(opened(tmp_path / "out/cutouts/tree/fir.png"))
    whole = np.asarray(opened(root / "usr/share/stamps/fir.png"))
    np.testing.assert_array_equal(fir, whole[6:26, 5:25])  # small ones stay as are


def test_colour_of_transparent_pixels_does_not_bleed():
    rgba = np.zeros((400, 400, 4), np.uint8)
    rgba[..., 0] = 255  # red, and nowhere to be seen
    rgba[100:300, 100:300] = (0, 0, 255, 255)
    rgba[0, 0, 3] = rgba[-1, -1, 3] = 255  # keep the box whole
    made = np.asarray(materials.make_cutout(Image.fromarray(rgba)))[40:152, 40:152]
    assert 0 < (made[..., 3] < 255).sum()
    assert made[made[..., 3] > 8][:, 0].max() == 0


def test_palettes_with_a_transparent_colour_are_cutouts_too():
    picture = Image.new("P", (10, 8), 1)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.paste(0, (2, 3, 6, 7))
    picture.info["transparency"] = 1
    made = materials.make_cutout(picture)
    assert made.size == (4, 4) and made.getcolors() == [(16, (255, 0, 0, 255))]


def test_the_bytes_are_the_same_again(root, tmp_path):
    for name in ("one", "two"):
        materials.make(tmp_path / name, root, LISTED)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_finished_output_is_not_made_again(root, tmp_path):
    out = tmp_path / "out"
    card, _ = materials.make(out, root, LISTED)
    (root / "usr/share/small.jpg").unlink()  # no source is needed any more
    assert materials.make(out, root, LISTED) == (card, False)
    other = {**json.loads((out / "card.json").read_text()), "pillow": "1.0"}
    (out / "card.json").write_text(json.dumps(other))
    assert materials.make(out, root, LISTED) == (other, False)


def break_off(out):
    """As a kill leaves it: some pictures, one of them cut short, no card."""
    (out / "card.json").unlink()
    (out / "cutouts/tree/fir.png").unlink()
    (out / "cutouts/bird/owl.png").write_bytes(b"\x89PNG")
    (out / "card.json.partial").write_text("{")


def change_a_byte(out):
    with (out / "grounds/val/grey.jpg").open("ab") as file:
        file.write(b" ")


def remove_a_picture(out):
    (out / "cutouts/tree/fir.png").unlink()


def spoil_the_card(out):
    (out / "card.json").write_text("[]")


@pytest.mark.parametrize(
    "harm", [break_off, change_a_byte, remove_a_picture, spoil_the_card]
)
def test_unfinished_output_is_made_again(root, tmp_path, harm):
    out = tmp_path / "out"
    materials.make(out, root, LISTED)
    whole = files(out)
    harm(out)
    assert materials.make(out, root, LISTED)[1]
    assert files(out) == whole


def test_another_list_makes_the_same_names_again(root, tmp_path):
    out = tmp_path / "out"
    materials.make(out, root, LISTED)
    other = json.loads(json.dumps(LISTED))
    other["grounds"]["photographs"]["val/grey"] = "usr/share/small.jpg"
    assert materials.make(out, root, other)[1]
    assert opened(out / "grounds/val/grey.jpg").size == (30, 20)


def test_a_run_that_fails_half_way_leaves_no_card(root, tmp_path):
    out = tmp_path / "out"
    materials.make(out, root, LISTED)
    remove_a_picture(out)
    (root / "usr/share/stamps/fir.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"fir\.png: .*unpack package stamps again"):
        materials.make(out, root, LISTED)
    assert not (out / "card.json").exists()


def test_missing_files_are_named_with_the_way_to_get_them(root, tmp_path):
    for name in ("wide.png", "small.jpg", "stamps/fir.png"):
        (root / "usr/share" / name).unlink()
    with pytest.raises(InputError) as error:
        materials.make(tmp_path / "out", root, LISTED)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{root}/usr/share/wide.png: ")
    assert "2 missing of package photographs, version 1.0-1" in first
    assert "apt-get download photographs && dpkg -x photographs_*.deb ROOT" in first
    assert second.startswith(f"{root}/usr/share/stamps/fir.png: ")
    assert "apt-get download stamps && dpkg -x stamps_*.deb ROOT" in second
    assert not (tmp_path / "out").exists()


def test_a_cutout_that_is_nowhere_opaque_is_named(root, tmp_path):
    faint = Image.fromarray(stamp(30, 40, (5, 6, 25, 26), 32))
    faint.save(root / "usr/share/stamps/fir.png")
    with pytest.raises(InputError, match=r"fir\.png: .*nowhere opaque"):
        materials.make(tmp_path / "out", root, LISTED)


@pytest.mark.parametrize(
    "name", ["notes.txt", "cutouts/bird/mine.png", "grounds/val/b-wide.jpg"]
)
def test_foreign_files_are_left_alone(root, tmp_path, name):
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(InputError, match=f"holds {name}.* name a new or empty folder"):
        materials.make(tmp_path / "out", root, LISTED)
    assert files(tmp_path / "out") == {name: b"mine"}


def test_out_is_a_folder_that_can_be_written_to(root, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(InputError, match="that is a file; name a folder"):
        materials.make(file, root, LISTED)
    with pytest.raises(InputError, match="it cannot be written to"):
        materials.make(file / "below", root, LISTED)


def test_the_list_is_sound():
    listed = json.loads(materials.LIST.read_text())
    wanted = materials.pictures(listed)
    for values in zip(*((p.target.lower(), p.source) for p in wanted), strict=True):
        assert len(set(values)) == len(wanted)  # so train and val share no picture
    assert {picture.package for picture in wanted} == set(listed["packages"])
    folders = [picture.target.rsplit("/", 1)[0] for picture in wanted]
    grounds = {f: folders.count(f) for f in folders if f.startswith("grounds")}
    assert grounds == {"grounds/train": 19, "grounds/val": 10}
    assert sum(folder.startswith("cutouts/") for folder in folders) == 336
    assert len(set(folders)) == 18 + len(grounds)
    for picture in wanted:
        assert picture.source.startswith("usr/share/") and ".." not in picture.source


def test_the_command_line_prints_an_error_in_words(tmp_path):
    done = run_tool(
        *("tools/replication/materials.py", tmp_path / "out", "--root", tmp_path),
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "dpkg -x tuxpaint-stamps-default_*.deb ROOT" in done.stderr
