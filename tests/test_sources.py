"""Images from lists, COCO-format files, archives and class folders."""

import gzip
import json
import os
import shutil
import stat
import tarfile
import zipfile
from io import BytesIO
from itertools import islice

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS, TRANSFORMS

from mcl.checks import check_data, check_paths
from mcl.config import adapt_to_cpu, share_batch_size
from mcl.datasets import ReplayableDataset, SampleKey, archives, sources
from mcl.datasets.loading import UnreadableImage
from mcl.errors import InputError

from .conftest import (
    ROOT,
    give_images,
    shrink_recipe,
    shrunk_config,
    write_coco,
    write_images,
    write_tar,
)

BASE = ROOT / "configs/_base_/datasets"
LOAD = [dict(type="LoadImageOrRaise"), dict(type="PackInputs")]


@pytest.fixture
def folder(tmp_path):
    """Two classes of three images: a/000.jpg ... b/005.jpg."""
    write_images(tmp_path / "images", 6)
    paths = sorted((tmp_path / "images").rglob("*.jpg"), key=lambda p: p.name)
    for i, path in enumerate(paths):
        new = tmp_path / "images" / ("a" if i < 3 else "b") / path.name
        new.parent.mkdir(exist_ok=True)
        path.rename(new)
    (tmp_path / "images" / "deeper").rmdir()
    return tmp_path / "images"


def build(type: str, **kwargs):
    return DATASETS.build(dict(type=type, pipeline=LOAD, **kwargs))


def samples(dataset) -> dict:
    """Pixels by the end of the path, folder and name."""
    found = [dataset[i] for i in range(len(dataset))]
    paths = ["/".join(f["data_samples"].img_path.split("/")[-2:]) for f in found]
    assert len(set(paths)) == len(paths)
    return dict(zip(paths, [f["inputs"] for f in found], strict=True))


def pack(folder, out):
    if out.suffix == ".tar":
        write_tar(out, folder)
        return out
    method = zipfile.ZIP_STORED if out.stem == "stored" else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(out, "w", method) as archive:
        for file in sorted(folder.rglob("*.jpg")):
            archive.write(file, file.relative_to(folder))
    return out


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["x.tar", "stored.zip", "deflated.zip"])
def test_an_archive_gives_what_its_folder_gives(folder, tmp_path, name):
    unpacked = samples(build("CustomDataset", data_root=str(folder), with_label=False))
    packed = build("ArchiveImages", archives=str(pack(folder, tmp_path / name)))
    assert_same(samples(packed), unpacked)
    first = packed[0]["data_samples"].img_path
    assert first == f"{tmp_path / name}/a/000.jpg"


def test_shards_by_glob_and_a_folder_inside(folder, tmp_path):
    for part in ("a", "b"):
        write_tar(tmp_path / f"{part}.tar", folder / part)
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w") as archive:
            for file in (folder / part).iterdir():
                archive.write(file, f"train/{part}/{file.name}")
    tars = build("ArchiveImages", archives="*.tar", data_root=str(tmp_path))
    names = [
        os.path.relpath(tars.get_data_info(i)["img_path"], tmp_path) for i in (0, 5)
    ]
    assert len(tars) == 6 and names == ["a.tar/000.jpg", "b.tar/005.jpg"]
    shutil.copy(tmp_path / "a.tar", tmp_path / "a[1].tgz")
    assert len(build("ArchiveImages", archives=f"{tmp_path}/a[1].tgz")) == 3
    both = build("ArchiveImages", archives=["*.zip", "*.tar"], data_root=str(tmp_path))
    assert len(both) == 12
    options = dict(archives="*.zip", data_root=str(tmp_path), with_label=True)
    inside = build("ArchiveImages", inside="train/", **options)
    assert inside.metainfo["classes"] == ("a", "b")
    outside = build("ArchiveImages", **options)
    assert outside.metainfo["classes"] == ("train",)


def test_labels_of_folders_lists_and_archives(folder, tmp_path):
    write_tar(tmp_path / "x.tar", folder)
    for part in ("a", "b"):
        write_tar(tmp_path / f"class_{part}.tar", folder / part)
    lines = [f"{p.relative_to(folder)} {'ab'.index(p.parent.name)}" for p in
             folder.rglob("*.jpg")]  # fmt: skip
    (folder / "list.txt").write_text("\n".join(lines))
    kinds = [
        dict(type="CustomDataset", data_root=str(folder)),
        dict(type="CustomDataset", data_root=str(folder), ann_file="list.txt"),
        dict(type="ArchiveImages", archives=str(tmp_path / "x.tar")),
        dict(
            type="ArchiveImages",
            archives=str(tmp_path / "class_*.tar"),
            label_from="archive",
        ),
    ]
    pipeline = shrunk_config(folder).train_dataloader.dataset.dataset.pipeline
    for source in kinds:
        inner = dict(**source, with_label=True, pipeline=pipeline)
        dataset = ReplayableDataset(inner)
        assert len(dataset) == 6
        for i in range(6):
            sample = dataset[SampleKey(0, 0, i)]["data_samples"]
            number = int(sample.img_path.split("/")[-1].split(".")[0])
            assert sample.gt_label.tolist() == [number // 3]
    with pytest.raises(InputError, match="lies in no folder that would name its class"):
        build("ArchiveImages", archives=str(tmp_path / "class_*.tar"), with_label=True)
    with pytest.raises(InputError, match="metainfo.classes has 1 names.* 2 classes"):
        build("ArchiveImages", archives=kinds[2]["archives"], with_label=True,
              metainfo=dict(classes=("a",)))  # fmt: skip


def test_a_batch_of_labeled_images_keeps_its_labels(folder):
    cfg = shrunk_config(folder)
    cfg.train_dataloader.dataset.dataset.with_label = True
    cfg.train_dataloader.batch_size = 4
    batch = next(
        iter(Runner.build_dataloader(share_batch_size(cfg.train_dataloader), seed=0))
    )
    for sample in batch["data_samples"]:
        assert sample.gt_label.item() == "ab".index(sample.img_path.split("/")[-2])


@pytest.mark.parametrize("method, workers", [("fork", 2), ("spawn", 1)])
def test_workers_share_nothing_of_a_handle(folder, tmp_path, method, workers):
    """The same samples as without workers, whatever was read before."""
    cfg = shrunk_config(folder)
    loader = cfg.train_dataloader
    inner = dict(type="ArchiveImages", pipeline=loader.dataset.dataset.pipeline)
    loader.dataset.dataset = dict(
        archives=str(pack(folder, tmp_path / "x.tar")), **inner
    )
    loader.batch_size = 3
    loader = share_batch_size(loader)
    expected = list(islice(Runner.build_dataloader(loader, seed=0), 4))
    loader.update(num_workers=workers, multiprocessing_context=method)
    drawn = list(islice(Runner.build_dataloader(loader, seed=0), 4))
    for a, b in zip(expected, drawn, strict=True):
        assert [s.img_path for s in a["data_samples"]] == [
            s.img_path for s in b["data_samples"]
        ]
        assert all(map(torch.equal, a["inputs"], b["inputs"]))


def test_more_archives_than_open_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_open", archives.lru_cache(1)(archives._Handle))
    for part in ("a", "b"):
        write_tar(tmp_path / f"{part}.tar", folder / part)
    dataset = build("ArchiveImages", archives=str(tmp_path / "*.tar"))
    before = len(os.listdir("/proc/self/fd"))
    for i in (0, 5, 1, 4):
        dataset[i]
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_the_index_is_kept_and_follows_a_changed_archive(folder, tmp_path, monkeypatch):
    path, index = pack(folder, tmp_path / "x.tar"), tmp_path / "w" / "index.json"
    options = dict(archives=str(path), index_file=str(index))
    first = samples(build("ArchiveImages", **options))
    with monkeypatch.context() as patch:
        patch.delattr(archives, "list_images")
        assert_same(samples(build("ArchiveImages", **options)), first)
    (folder / "b" / "005.jpg").unlink()
    pack(folder, path)
    archives._open.cache_clear()
    assert len(build("ArchiveImages", **options)) == 5
    assert len(build("ArchiveImages", extensions=(".png", "3.jpg"), **options)) == 1
    older = index.read_text().replace('"version": 2', '"version": 1')
    index.write_text(older)
    assert len(build("ArchiveImages", **options)) == 5
    assert index.read_text() != older
    for other in ("no json", "", "[]", '{"images": []}', '{"version": 2}'):
        index.write_text(other)
        with pytest.raises(InputError, match="index.json: this is no index of arch"):
            build("ArchiveImages", **options)
        assert index.read_text() == other
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="index_file=.*cannot be written"):
        build("ArchiveImages", archives=str(path), index_file=f"{tmp_path}/file/i.json")


def test_hidden_files_and_repeated_names(folder, tmp_path):
    (folder / "a" / "._000.jpg").write_bytes(b"a resource fork")
    (folder / "a" / "000.json").write_text("{}")
    (folder / "a" / "link.jpg").symlink_to("000.jpg")
    write_tar(tmp_path / "x.tar", folder)
    shutil.copy(folder / "b" / "005.jpg", folder / "a" / "000.jpg")
    write_tar(tmp_path / "x.tar", folder / "a", mode="a")  # now at the top as well
    found = archives.list_images(str(tmp_path / "x.tar"), [".jpg"])
    names = [m.name for m in found]
    assert len(names) == len(set(names)) and not any("._" in n for n in names)
    assert "a/link.jpg" not in names and len(names) == 6 + 3
    write_tar(tmp_path / "x.tar", folder, mode="a")
    again = {m.name: m for m in archives.list_images(str(tmp_path / "x.tar"), [".jpg"])}
    assert len(again) == 9
    content = archives.read_member(str(tmp_path / "x.tar"), *again["a/000.jpg"][1:])
    assert content == (folder / "b" / "005.jpg").read_bytes()


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_names_of_members_are_taken_as_they_are_meant(folder, tmp_path, ending):
    """./c1/x.jpg, /c2/x.jpg and ../c3//x.jpg are of classes c1 to c3."""
    names = ["./c1/0.jpg", "/c2/1.jpg", "../c3//2.jpg", "./.hidden/3.jpg"]
    path, image = str(tmp_path / f"x.{ending}"), (folder / "a/000.jpg").read_bytes()
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, image)
    else:
        with tarfile.open(path, "w") as archive:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(image)
                archive.addfile(entry, BytesIO(image))
    dataset = build("ArchiveImages", archives=path, with_label=True)
    assert dataset.metainfo["classes"] == ("c1", "c2", "c3")
    paths = [dataset[i]["data_samples"].img_path for i in range(3)]
    assert paths == [f"{path}/c1/0.jpg", f"{path}/c2/1.jpg", f"{path}/c3/2.jpg"]


def test_a_file_with_two_paths_is_one_archive(folder, tmp_path):
    path = pack(folder, tmp_path / "x.tar")
    (tmp_path / "z.tar").symlink_to(path)
    found = archives.find_archives(["*.tar", "./x.tar", str(path)], str(tmp_path))
    assert len(found) == 1 and os.path.samefile(found[0], path)


def test_what_is_no_image_in_a_zip_is_passed_over(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(folder / "a/000.jpg", "000.jpg")
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "000.jpg")
        archive.writestr("notes.txt", "packed tightly", zipfile.ZIP_LZMA)
    found = archives.list_images(str(tmp_path / "x.zip"), [".jpg"])
    assert [m.name for m in found] == ["000.jpg"]


@pytest.mark.parametrize("name", ["x.tar", "stored.zip", "deflated.zip"])
def test_a_corrupt_member_is_replaced_and_named(folder, tmp_path, name):
    path = pack(folder, tmp_path / name)
    dataset = build("ArchiveImages", archives=str(path))
    _, offset, size, method, _ = dataset.get_data_info(1)["member"]
    place = offset + (0 if method is None else 100)
    content = bytearray(path.read_bytes())
    content[place : place + 64] = b"\xff" * 64
    path.write_bytes(content)
    sample = ReplayableDataset(dataset)[SampleKey(0, 0, 1)]["data_samples"]
    assert list(sample.replaced) == [f"{path}/a/001.jpg"]
    if method == zipfile.ZIP_STORED:
        assert "checksum is wrong" in sample.replaced[f"{path}/a/001.jpg"]
    assert sample.img_path != f"{path}/a/001.jpg"


def test_an_archive_cut_short_after_its_index_was_made(folder, tmp_path):
    path = pack(folder, tmp_path / "x.tar")
    dataset = build("ArchiveImages", archives=str(path))
    last = dataset.get_data_info(5)
    path.write_bytes(path.read_bytes()[: last["member"][1] + 100])
    with pytest.raises(UnreadableImage, match="b/005.jpg: .*ends before it"):
        dataset[5]
    os.remove(path)
    archives._open.cache_clear()
    with pytest.raises(UnreadableImage, match="x.tar/b/005.jpg: FileNotFoundError"):
        dataset[5]


def test_archives_that_cannot_be_read_are_refused_in_words(
    folder, tmp_path, monkeypatch
):
    tar = pack(folder, tmp_path / "x.tar")

    def refused(content: bytes, name: str = "y.tar", **options) -> str:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as error:
            build("ArchiveImages", archives=str(tmp_path / name), **options)
        assert str(tmp_path / name) in str(error.value)
        return str(error.value)

    whole = tar.read_bytes()
    assert "compressed with gzip as a whole" in refused(gzip.compress(whole), "y.tgz")
    assert "it is no .tar or .zip file, or damaged" in refused(b"no archive" * 99)
    assert "copy it again" in refused(whole[: len(whole) // 3])
    assert "copy it again" in refused(b"")
    second = archives.list_images(str(tar), [".jpg"])[1].offset - 512
    damaged = whole[:second] + b"x" * 512 + whole[second + 512 :]
    assert f"the header at byte {second} is damaged" in refused(damaged)
    notes = []
    monkeypatch.setattr(archives, "print_log", lambda text, **_: notes.append(text))
    (tmp_path / "y.tar").write_bytes(whole[:second])
    assert len(archives.list_images(str(tmp_path / "y.tar"), [".jpg"])) == 1
    assert "no mark at its end" in notes[0]
    assert "more follows its end" in refused(whole + whole)
    zipped = pack(folder, tmp_path / "x.zip").read_bytes()
    assert "damaged or cut short" in refused(zipped[:-30], "y.zip")
    assert "hold no image; the names of images end with .png" in refused(
        whole, extensions=[".png"]
    )
    assert "hold no image below c/" in refused(whole, inside="c")
    write_tar(tmp_path / "nested.tar", folder.parent / "images")
    outer = tmp_path / "outer"
    outer.mkdir()
    shutil.move(tar, outer / "n01.tar")
    write_tar(tmp_path / "y.tar", outer)
    assert "it holds archives, such as n01.tar" in refused(
        (tmp_path / "y.tar").read_bytes()
    )
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(folder / "a" / "000.jpg", "000.jpg")
    assert "pack it with `zip -0`" in refused((tmp_path / "z.zip").read_bytes())
    with pytest.raises(InputError, match="archives=.*none-.*there is no such file"):
        build("ArchiveImages", archives=["none-*.tar"], data_root=str(tmp_path))
    with pytest.raises(InputError, match="archives=\\[\\]"):
        build("ArchiveImages", archives=[])
    with pytest.raises(InputError, match="label_from='name'"):
        build("ArchiveImages", archives="x", label_from="name")


def coco(root, **change):
    content = json.loads(write_coco(root, 6, "ann.json", "train").read_text())
    (root / "ann.json").write_text(json.dumps({**content, **change}))
    return dict(data_root=str(root), ann_file="ann.json", data_prefix="train/")


def test_a_coco_file_gives_what_its_folder_gives(tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(sources, "print_log", lambda text, logger: notes.append(text))
    options = coco(tmp_path)
    folder = build("CustomDataset", data_root=f"{tmp_path}/train", with_label=False)
    assert_same(samples(build("COCOImages", **options)), samples(folder))
    images = json.loads((tmp_path / "ann.json").read_text())["images"]
    images += [images[0], dict(images[1], file_name=f"./{images[1]['file_name']}")]
    dataset = build("COCOImages", **coco(tmp_path, images=images))
    assert len(dataset) == 6
    (note,) = notes
    assert "2 of 8 entries name an image again" in note
    two = dict(type="COCOImages", pipeline=LOAD, **options)
    assert len(DATASETS.build(dict(type="ConcatDataset", datasets=[two, two]))) == 12


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(images={}), "its list `images` is missing or empty"),
        (dict(images=[]), "its list `images` is missing or empty"),
        (dict(images=[dict(id=1)]), r"images\[0\] has no `file_name`"),
        (
            dict(images=[dict(file_name="x/1.jpg")]),
            r"1 of its 1 images are not below .*train.*images\[0\].file_name="
            "'x/1.jpg'; set data_prefix",
        ),
    ],
)
def test_a_coco_file_that_cannot_serve(tmp_path, change, message):
    with pytest.raises(InputError, match=f"ann_file=.*ann.json: {message}"):
        build("COCOImages", **coco(tmp_path, **change))


def test_a_coco_file_that_is_none(tmp_path):
    options = coco(tmp_path)
    for content, message in (
        ("[]", "`images` is missing"),
        ("{", "it is no JSON file"),
    ):
        (tmp_path / "ann.json").write_text(content)
        with pytest.raises(InputError, match=message):
            build("COCOImages", **options)
    (tmp_path / "ann.json").unlink()
    with pytest.raises(InputError, match="ann.json: it cannot be read"):
        build("COCOImages", **options)


def recipe(source: str, root) -> Config:
    """The tiny recipe's schedule and model with another source of images."""
    path = root / "recipe.py"
    tiny = ROOT / "configs/mcl/mcl_resnet18-fpn_1xb64-cpu-coslr_folder.py"
    # Keys that both files have may not meet as bases; as a child they merge.
    images = Config.fromfile(BASE / f"{source}_mcl_224.py").train_dataloader
    dataset = {**images.dataset.dataset.to_dict(), "_delete_": True}
    loader = dict(dataset=dict(dataset=dataset))
    path.write_text(f"_base_ = {str(tiny)!r}\ntrain_dataloader = {loader!r}\n")
    cfg = Config.fromfile(path)
    shrink_recipe(cfg)
    give_images(cfg, root, 24)
    cfg.train_cfg.max_iters = 3
    return cfg


@pytest.mark.parametrize("source", ["list", "archives"])
def test_a_recipe_of_another_source_trains_and_resumes(tmp_path, source):
    cfg = recipe(source, tmp_path)
    check_paths(cfg)
    adapt_to_cpu(cfg)
    cfg.default_hooks.checkpoint.interval = 1

    def train(name: str, **change) -> dict:
        cfg.update(work_dir=f"{tmp_path}/{name}", experiment_name=f"{source}_{name}")
        cfg.visualizer.name = cfg.experiment_name
        cfg.update(change)
        Runner.from_cfg(cfg).train()
        return torch.load(f"{cfg.work_dir}/iter_3.pth", weights_only=False)

    straight = train("straight")["state_dict"]
    second = f"{tmp_path}/straight/iter_2.pth"
    resumed = train("resumed", load_from=second, resume=True)["state_dict"]
    assert straight["target.step"] == 3
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)


def test_what_is_missing_is_said_before_the_run(tmp_path):
    def said(cfg) -> str:
        match = "^train_dataloader.dataset.dataset"
        with pytest.raises(InputError, match=match) as error:
            check_data(cfg)
        return str(error.value)

    cfg = recipe("archives", tmp_path)
    check_data(cfg)
    inner = cfg.train_dataloader.dataset.dataset
    inner.archives = ["*.zip", "shard-*.tar"]
    missing = f"{inner.data_root}/*.zip, {inner.data_root}/shard-*.tar: there is no"
    assert f"archives={missing}" in said(cfg)
    # one kind of archive is enough for globs; a path must be there
    inner.archives = Config.fromfile(BASE / "archives_mcl_224.py")[
        "train_dataloader"
    ].dataset.dataset.archives
    assert "*.zip" in inner.archives
    check_data(cfg)
    inner.archives = ["*.tar", "x.zip"]
    assert f"archives={inner.data_root}/x.zip: there is no" in said(cfg)

    cfg = recipe("list", tmp_path)
    check_data(cfg)
    inner = cfg.train_dataloader.dataset.dataset
    lines = tmp_path / "source0" / inner.ann_file
    inner.with_label = True
    assert "line 1 is '001.jpg', but a line is `path label`" in said(cfg)
    lines.write_text("001.jpg 0\n002.jpg 1\n")
    check_data(cfg)
    inner.with_label = False
    assert f"line 1 names {tmp_path}/source0/001.jpg 0, which is not there" in said(cfg)
    lines.write_text("001.jpg\n\n002.jpg\n")
    assert "line 2 is ''" in said(cfg)
    lines.write_text("")
    assert "train.txt: it is empty" in said(cfg)
    lines.unlink()
    assert "train.txt: there is no such file" in said(cfg)

    cfg = recipe("coco-unlabeled", tmp_path)
    check_data(cfg)
    shutil.rmtree(tmp_path / "source1" / "unlabeled2017")
    gone = said(cfg)
    assert "unlabeled2017: there is no such folder" in gone
    assert gone.startswith("train_dataloader.dataset.dataset.datasets.1.data_prefix=")


def test_endings_are_those_of_the_folder_source():
    assert (
        Config.fromfile(BASE / "images_mcl_224.py").extensions
        == sources.IMAGE_EXTENSIONS
    )


def test_the_host_loads_files_beside_members(folder, tmp_path):
    """One pipeline serves both, so sources can be joined."""
    load = TRANSFORMS.build(dict(type="LoadImageOrRaise", to_float32=True))
    tar = pack(folder, tmp_path / "x.tar")
    packed = build("ArchiveImages", archives=str(tar)).get_data_info(0)
    image = load(dict(img_path=str(folder / "a/000.jpg")))
    member = load(packed)
    assert member["img"].dtype == image["img"].dtype
    assert (member["img"] == image["img"]).all()
    assert member["ori_shape"] == image["ori_shape"] == (48, 60)
