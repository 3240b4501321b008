"""One sentence with the path or field, a non-zero exit, nothing overwritten."""

import json
from contextlib import redirect_stdout
from io import StringIO
from subprocess import CompletedProcess

import pytest
import torch

from mcl.errors import InputError, user_message

from .conftest import (
    SHRINK,
    SMALL_DETECTOR,
    TINY,
    options,
    run_main,
    run_tool,
    write_images,
)


def train(config, work_dir, overrides, *args, apart=False, **env):
    """Run tools/train.py, in this process unless ``apart``: starting one takes time."""
    command = ["--work-dir", work_dir, *args, "--cfg-options", *options(overrides)]
    if apart:
        return run_tool("tools/train.py", config, *command, check=False, **env)
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        for name, value in env.items():
            patch.setenv(name, str(value))
        try:
            run_main("tools/train.py", config, *command)
        except InputError as error:
            words = f"error: {user_message(error)}"
            return CompletedProcess(command, 1, printed.getvalue(), words)
    return CompletedProcess(command, 0, printed.getvalue(), "")


def pretraining(work_dir, folder, *args, apart=False, **overrides):
    overrides = {
        **SHRINK,
        "train_dataloader.dataset.dataset.data_root": folder,
        "train_cfg.max_iters": 2,
        "default_hooks.checkpoint.interval": 1,
        **overrides,
    }
    return train(TINY, work_dir, overrides, *args, apart=apart)


def said(done) -> str:
    """The error, which must be a sentence and not a traceback."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.split("error: ")[-1]


def test_missing_config(tmp_path):
    done = run_tool("tools/train.py", tmp_path / "none.py", check=False)
    assert f"{tmp_path}/none.py: there is no such file" in said(done)


def test_missing_and_empty_folder(tmp_path):
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    named = f"train_dataloader.dataset.dataset.data_root={missing}"
    assert named in said(pretraining(tmp_path / "w", missing))
    assert f"{empty} is empty" in said(pretraining(tmp_path / "w", empty))
    assert not (tmp_path / "w").exists()


def test_folder_without_images(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("no image")
    assert "Found 0 files" in said(pretraining(tmp_path / "w", tmp_path / "data"))


def test_fewer_images_than_a_batch(tmp_path):
    write_images(tmp_path / "data", 5)
    message = said(pretraining(tmp_path / "w", tmp_path / "data"))
    assert "5 images are fewer than one batch of 8" in message


def test_too_many_unreadable_images_stop_the_run_with_their_list(tmp_path):
    folder = tmp_path / "data"
    write_images(folder, 24)
    bad = [folder / "001.jpg", folder / "002.jpg"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:300])
    done = pretraining(tmp_path / "w", folder, apart=True, **{"train_cfg.max_iters": 3})
    message = said(done)
    assert "unreadable, more than max_fraction=0.01" in message
    assert any(str(path) in message for path in bad)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_few_unreadable_images_are_named_and_replaced(tmp_path, workers):
    folder = tmp_path / "data"
    write_images(folder, 24)
    (folder / "001.jpg").write_bytes(b"no image")
    done = pretraining(
        tmp_path / "w",
        folder,
        apart=True,
        **{
            "train_cfg.max_iters": 6,
            "custom_hooks.3.max_fraction": 0.05,
            "train_dataloader.num_workers": workers,
        },
    )
    assert done.returncode == 0, done.stderr
    warning = "unreadable image replaced: " + str(folder / "001.jpg")
    assert (done.stdout + done.stderr).count(warning) == 1


def test_a_loss_that_is_not_finite(tmp_path):
    folder = tmp_path / "data"
    write_images(folder, 24)
    done = pretraining(
        tmp_path / "w",
        folder,
        apart=True,
        **{
            "train_cfg.max_iters": 20,
            "optim_wrapper.optimizer.lr": 1e30,
            "param_scheduler.0.start_factor": 1.0,
        },
    )
    message = said(done)
    assert " at iteration " in message and "optimizer.lr" in message
    written = list((tmp_path / "w").glob("iter_*.pth"))
    assert len(written) < 20
    for path in written:
        checkpoint = torch.load(path, weights_only=False)
        losses = checkpoint["message_hub"]["log_scalars"]["train/loss"].data[0]
        assert torch.tensor(losses).isfinite().all()
        weights = checkpoint["state_dict"].values()
        assert all(w.isfinite().all() for w in weights)


def coco(tmp_path, categories, category_id=1):
    root = tmp_path / "coco"
    for split in ("train", "val"):
        write_images(root / split, 3)
        images = [
            dict(id=i, file_name=f"{i:03}.jpg", height=48, width=60) for i in (1, 2)
        ]
        annotation = dict(
            id=1,
            image_id=1,
            category_id=category_id,
            bbox=[1, 1, 30, 30],
            area=900,
            iscrowd=0,
            segmentation=[[1, 1, 31, 1, 31, 31, 1, 31]],
        )
        content = dict(images=images, annotations=[annotation], categories=categories)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return f"{root}/"


def detection(work_dir, root, *args, **overrides):
    overrides = {"load_from": "None", "train_cfg.max_iters": 1, **overrides}
    return train(SMALL_DETECTOR, work_dir, overrides, *args, QUICKSTART_DATA=root)


def test_missing_annotation_file(tmp_path):
    root = coco(tmp_path, [dict(id=1, name="object")])
    (tmp_path / "coco/annotations/train.json").unlink()
    message = said(detection(tmp_path / "w", root))
    assert "ann_file" in message and "annotations/train.json" in message


def test_labels_out_of_range(tmp_path):
    root = coco(tmp_path, [dict(id=1, name="cat")])
    message = said(detection(tmp_path / "w", root))
    assert "none of its categories ['cat'] is among metainfo.classes" in message
    root = coco(tmp_path, [dict(id=1, name="object")], category_id=7)
    assert "category_id [7]" in said(detection(tmp_path / "w", root))
    root = coco(tmp_path, [dict(id=1, name="object")])
    wrong = {"model.roi_head.bbox_head.num_classes": 3}
    assert "num_classes=3" in said(detection(tmp_path / "w", root, **wrong))


def test_checkpoint_of_another_architecture(tmp_path):
    root = coco(tmp_path, [dict(id=1, name="object")])
    missing = {"load_from": tmp_path / "none.pth"}
    message = said(detection(tmp_path / "w", root, **missing))
    assert "none.pth: there is no such checkpoint" in message
    other = tmp_path / "other.pth"
    torch.save(
        dict(state_dict={"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}), other
    )
    message = said(detection(tmp_path / "w", root, load_from=other))
    assert "another architecture" in message and "backbone" in message
    # An object that is no tensor could run code when it is read.
    torch.save(dict(state_dict={"a": torch.zeros(1)}, where=tmp_path), other)
    message = said(detection(tmp_path / "w", root, load_from=other))
    assert "give --trust" in message
    message = said(detection(tmp_path / "w", root, "--trust", load_from=other))
    assert "another architecture" in message
    assert not list((tmp_path / "w").glob("*.pth"))


def test_a_file_that_weights_begin_from_is_read_as_carefully(tmp_path):
    folder, file = tmp_path / "data", tmp_path / "file.pth"
    write_images(folder, 24)
    init = {
        "model.backbone.init_cfg.type": "Pretrained",
        "model.backbone.init_cfg.checkpoint": file,
        "model.backbone.init_cfg.prefix": "backbone.",
    }
    message = said(pretraining(tmp_path / "w", folder, **init))
    assert "file.pth: there is no such checkpoint" in message
    torch.save(dict(state_dict={"a": torch.zeros(1)}, where=tmp_path), file)
    assert "give --trust" in said(pretraining(tmp_path / "w", folder, **init))
    torch.save(dict(state_dict={"a": torch.zeros(1)}), file)
    message = said(pretraining(tmp_path / "w", folder, **init))
    assert "init_cfg.prefix='backbone.'" in message


def test_a_resumed_file_must_be_a_training_checkpoint(tmp_path):
    folder, file = tmp_path / "data", tmp_path / "file.pth"
    write_images(folder, 24)
    file.write_bytes(b"no checkpoint")
    message = said(pretraining(tmp_path / "w", folder, "--resume", file))
    assert f"{file}: it is no checkpoint, or damaged" in message
    torch.save(dict(state_dict={"a": torch.zeros(1)}), file)
    message = said(pretraining(tmp_path / "w", folder, "--resume", file))
    assert "weights only, nothing to resume from" in message
    torch.save([torch.zeros(1)], file)
    message = said(pretraining(tmp_path / "w", folder, "--resume", file))
    assert "holds a list" in message


def test_an_error_in_a_worker_is_one_sentence(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(16):
        (folder / f"{i}.jpg").write_bytes(b"no image")
    done = pretraining(
        tmp_path / "w", folder, apart=True, **{"train_dataloader.num_workers": 2}
    )
    assert "images in a row are unreadable" in said(done)


def test_unreadable_images_are_counted_over_processes(tmp_path):
    folder = tmp_path / "data"
    write_images(folder, 32)
    for i in (1, 2, 4, 5, 7):
        (folder / f"{i:03}.jpg").write_bytes(b"no image")
    overrides = {
        **SHRINK,
        "train_dataloader.dataset.dataset.data_root": folder,
        "train_cfg.max_iters": 4,
        "custom_hooks.3.max_fraction": 4 / 32,
        "custom_hooks.3.interval": 2,
    }
    done = run_tool(
        "tools/dist_train.sh",
        TINY,
        2,
        "--work-dir",
        tmp_path / "w",
        "--cfg-options",
        *options(overrides),
        check=False,
        OMP_NUM_THREADS="1",
    )
    assert done.returncode and "5 of 32 images are unreadable" in done.stderr


def test_a_typing_error_is_pointed_at(tmp_path):
    folder = tmp_path / "data"
    write_images(folder, 24)
    done = pretraining(tmp_path / "w", folder, **{"trian_cfg.max_iters": 1})
    assert "the config had no ['trian_cfg']; check the spelling" in done.stdout
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(")
    message = said(train(broken, tmp_path / "w", {"a": 1}))
    assert f"{broken}: it cannot be read" in message
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "work_dir=" in said(pretraining(blocked / "w", folder))


def test_ratios_and_channels_must_agree(tmp_path):
    folder = tmp_path / "data"
    write_images(folder, 24)
    message = said(pretraining(tmp_path / "w", folder, **{"model.neck.ratios": [1, 2]}))
    assert "model.ratios=(1, 2, 4, 8), model.neck.ratios=(1, 2): these" in message
    wrong = {"model.neck.in_channels": [8, 16, 32, 32]}
    message = said(pretraining(tmp_path / "w", folder, **wrong))
    assert (
        "neck.in_channels=[8, 16, 32, 32]" in message and "[8, 16, 32, 64]" in message
    )
    message = said(
        pretraining(tmp_path / "w", folder, **{"train_dataloader.batch_size": 1})
    )
    assert "batch_size=1" in message


def test_evaluation_needs_every_weight(tmp_path):
    root, file = coco(tmp_path, [dict(id=1, name="object")]), tmp_path / "part.pth"
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from mcl.config import adapt_to_cpu

    cfg = Config.fromfile(SMALL_DETECTOR)
    adapt_to_cpu(cfg)
    init_default_scope("mmdet")
    weights = MODELS.build(cfg.model).state_dict()
    arguments = ["tools/test.py", SMALL_DETECTOR, file, "--work-dir", tmp_path / "t"]
    torch.save(dict(state_dict=weights), file)
    done = run_tool(*arguments, QUICKSTART_DATA=root)
    assert "coco/bbox_mAP" in done.stdout + done.stderr
    trunk = {k: v for k, v in weights.items() if k.startswith(("backbone", "neck"))}
    torch.save(dict(state_dict=trunk), file)
    message = said(run_tool(*arguments, check=False, QUICKSTART_DATA=root))
    assert "rpn_head: 6 weights not filled" in message
