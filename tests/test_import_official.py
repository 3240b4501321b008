"""Checkpoints in the layout of the authors' code become ours and go on from there."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint

from mcl.errors import InputError
from mcl.export import load_weights
from mcl.export.load_report import SHARED_CONVS
from mcl.export.released import from_released, own_name, released_name

from .conftest import (
    DATA,
    random_views,
    run_main,
    run_tool,
    shrunk_config,
    shrunk_model,
)


@pytest.fixture(scope="module")
def ours() -> torch.nn.Module:
    """A small model that has seen one batch."""
    torch.manual_seed(0)
    model = shrunk_model(**{"neck.computation": "full"}).train()
    model.loss(random_views(model))
    return model


@pytest.fixture
def released(ours) -> dict[str, torch.Tensor]:
    """The same weights as the authors' code writes them, its backbone twice."""
    theirs = {released_name(k): v for k, v in ours.state_dict().items()}
    del theirs["target.step"]
    prefix = "encoder_q.0."
    backbone = {k.removeprefix(prefix): v for k, v in theirs.items() if prefix in k}
    return {**theirs, **{f"backbone.{k}": v for k, v in backbone.items()}}


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "config.py"
    shrunk_config(tmp_path).dump(path)
    return path


def test_names_of_the_authors_states():
    """Every name of the parity data has one of ours, and comes back from it."""
    with np.load(DATA / "loss_T1.0.npz") as data:
        names = [k.removeprefix("state/") for k in data if k.startswith("state/")]
    assert len(names) > 100
    for name in names:
        ours = own_name(name)
        assert ours.startswith(("neck.", "head.predictors.", "target.neck.")), name
        assert released_name(ours) == name


def test_round_trip(ours, released, config, tmp_path, capsys):
    theirs, out = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save(dict(state_dict=released, meta={}, optimizer={}), theirs)
    run_main("tools/import_official.py", theirs, out, "--config", config)
    assert "target.step" in capsys.readouterr().out
    imported = torch.load(out, weights_only=True)["state_dict"]
    state = ours.state_dict()
    assert set(imported) == set(state) - {"target.step"}
    for name, tensor in imported.items():
        assert torch.equal(tensor, state[name]), name

    again = shrunk_model()
    load_checkpoint(again, str(out))
    for name, tensor in again.state_dict().items():
        assert name == "target.step" or torch.equal(tensor, state[name]), name


def test_on_to_the_detector(released, config, tmp_path, run_export):
    from .detectors import small_config

    theirs, ours, out = (tmp_path / f"{n}.pth" for n in ("theirs", "ours", "out"))
    torch.save(dict(state_dict=released), theirs)
    run_main("tools/import_official.py", theirs, ours, "--config", config)
    detector = tmp_path / "detector.py"
    small_config().dump(detector)
    run_export(ours, out, "--detector", detector)
    exported = load_weights(str(out))
    for theirs_name, name in (
        ("encoder_q.0.layer4.0.conv1.weight", "backbone.layer4.0.conv1.weight"),
        ("encoder_q.1.fpn_convs.2.bn.bias", "neck.fpn_convs.2.bn.bias"),
        ("encoder_q.2.cls_convs.3.conv.weight", f"{SHARED_CONVS}.3.conv.weight"),
    ):
        assert torch.equal(exported[name], released[theirs_name])


def test_a_stripped_backbone(released, config, tmp_path, run_export):
    stripped = {k: v for k, v in released.items() if k.startswith("backbone.")}
    theirs, ours, out = (tmp_path / f"{n}.pth" for n in ("theirs", "ours", "out"))
    torch.save(dict(state_dict=stripped), theirs)
    run_main("tools/import_official.py", theirs, ours, "--config", config)
    assert set(load_weights(str(ours))) == set(stripped)
    with pytest.raises(InputError, match=r"no weight called neck.*--part"):
        run_export(ours, out)
    run_export(ours, out, "--to", "mmpretrain")
    assert set(load_weights(str(out))) == set(stripped)


def test_weights_of_another_kind_are_named(released):
    renamed, unknown = from_released({**released, "head.criterion.w": torch.ones(1)})
    assert unknown == ["head.criterion.w"] and "backbone.conv1.weight" in renamed


def test_what_does_not_fit_is_refused(released, config, tmp_path):
    theirs, out = tmp_path / "theirs.pth", tmp_path / "out.pth"

    def run(weights: dict) -> None:
        torch.save(dict(state_dict=weights), theirs)
        run_main("tools/import_official.py", theirs, out, "--config", config)

    other = {**released, "backbone.conv1.weight": torch.zeros(8, 3, 7, 7)}
    with pytest.raises(InputError, match="differ in this file"):
        run(other)
    for part in ("encoder_q.1.fpn_convs.0", "encoder_q.2.mlp.0", "head.predictor.1"):
        lacking = {k: v for k, v in released.items() if not k.startswith(part)}
        with pytest.raises(InputError, match="does not fit"):
            run(lacking)
    with pytest.raises(InputError, match="no checkpoint in the layout"):
        run({"conv1.weight": torch.zeros(1)})
    fpn = {k: v for k, v in released.items() if not k.startswith("encoder_q.1.")}
    with pytest.raises(InputError, match="neck: no weight of it fits"):
        run(fpn)
    with pytest.raises(InputError, match="has no such weight"):
        run({**released, "encoder_q.3.weight": torch.zeros(1)})
    with pytest.raises(InputError, match="need no import"):
        run({**released, "neck.fpn_convs.0.bn.bias": torch.zeros(1)})
    assert not out.exists()


def test_exit_status(released, tmp_path):
    theirs, out = tmp_path / "theirs.pth", tmp_path / "out.pth"
    torch.save(dict(state_dict=released), theirs)
    done = run_tool("tools/import_official.py", theirs, out, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the file's backbone is a ResNet-18 of width 8" in done.stderr
