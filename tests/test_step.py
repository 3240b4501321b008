"""How a step is computed: layout, early gradient, compiled parts, what it waits for."""

import copy
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from torch import nn

from mcl.engine import BFloat16OptimWrapper, DeferredInfoHook
from mcl.engine.acceleration import CompileHook, compile_parts, store_metrics
from mcl.errors import InputError
from mcl.models.early import differentiate_early
from mcl.models.losses import contrastive_cross_entropy, normalize

from .conftest import random_views, shrunk_model


def gradients(model: nn.Module, views: list) -> tuple[dict, dict]:
    """Losses and gradients of a step whose loss is scaled, as in accumulation."""
    model.zero_grad()
    losses = model.loss(views)
    total, _ = model.parse_losses(losses)
    (total / 4).backward()
    grads = {n: w.grad for n, w in model.named_parameters() if w.requires_grad}
    return {k: v.detach() for k, v in losses.items()}, grads


def assert_equal(one: dict, other: dict, scale: float = 1.0) -> None:
    """Gradients that stand before a BN are rounding noise: compare with the largest."""
    assert one.keys() == other.keys()
    largest = max(v.abs().max() for v in one.values()) * scale
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-3, atol=1e-4 * largest), name


# --- the loss


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_the_loss_is_that_of_autograd(masked):
    torch.manual_seed(0)
    targets, labels = normalize(torch.randn(7, 5)), torch.randint(0, 7, (12,))
    online = normalize(torch.randn(12, 5)).requires_grad_()
    valid = torch.ones(7, dtype=torch.bool)
    valid[[1, 4]] = not masked
    term = contrastive_cross_entropy(
        online, targets, labels, 0.2, valid if masked else None
    )
    (got,) = torch.autograd.grad(3 * term.cross_entropy, online)
    logits = (online @ targets.t() / 0.2).masked_fill(~valid, -torch.inf)
    kept = valid[labels]
    plain = F.cross_entropy(logits[kept], labels[kept])
    (expected,) = torch.autograd.grad(3 * plain, online)
    assert term.cross_entropy.item() == pytest.approx(plain.item(), rel=1e-6)
    assert torch.allclose(got, expected, atol=1e-6)
    assert not any(t.requires_grad for t in term[1:])


# --- the early gradient


@pytest.mark.parametrize("assignment", ["image", "all"])
def test_early_backward_changes_no_gradient(assignment):
    torch.manual_seed(0)
    plain = shrunk_model(**{"head.assignment": assignment}).train()
    early = copy.deepcopy(plain)
    early.early_backward = True
    views = random_views(plain)
    losses, grads = gradients(plain, views)
    early_losses, early_grads = gradients(early, views)
    assert_equal(losses, early_losses)
    assert_equal(grads, early_grads)


def test_early_backward_under_bfloat16_autocast():
    """Both views' backward passes run outside autocast, or one would lose digits."""
    layer = nn.Linear(5, 5, bias=False)
    online, targets = torch.randn(12, 5), normalize(torch.randn(7, 5))
    labels, found = torch.randint(0, 7, (12,)), []
    for early in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            unit = normalize(layer(online))
            term = contrastive_cross_entropy(unit, targets, labels, 0.1)
            losses = dict(loss=term.cross_entropy)
            if early:
                losses = differentiate_early(losses, layer)
        losses["loss"].backward()
        found.append(layer.weight.grad)
    assert torch.equal(*found)


def test_early_gradients_that_share_memory_are_scaled_once():
    both = nn.ParameterList([torch.ones(3), torch.ones(3)])
    a, b = both
    losses = differentiate_early(dict(loss=((a + b) ** 2).sum()), both)
    (losses["loss"] / 4).backward()
    assert a.grad.tolist() == b.grad.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("early", [False, True])
def test_early_backward_frees_the_first_view(early):
    model = shrunk_model(early_backward=early).train()
    views = []

    def keep(module, inputs, outputs):
        if outputs[0].requires_grad:
            views.append(weakref.ref(outputs[0]))

    model.backbone.register_forward_hook(keep)
    losses = model.loss(random_views(model))
    assert [found() is not None for found in views] == [not early, True]
    assert losses["loss_p5"].requires_grad


def test_early_backward_refuses_float16():
    model = shrunk_model(early_backward=True).train()
    with (
        torch.autocast("cpu", dtype=torch.float16),
        pytest.raises(InputError, match="early_backward.*BFloat16OptimWrapper"),
    ):
        model.loss(random_views(model))


def test_activation_checkpoints_change_no_gradient():
    torch.manual_seed(0)
    plain = shrunk_model().train()
    recomputing = shrunk_model(**{"backbone.with_cp": True}).train()
    recomputing.load_state_dict(plain.state_dict())
    views = random_views(plain)
    (losses, grads), (others, other_grads) = (
        gradients(model, views) for model in (plain, recomputing)
    )
    assert_equal(losses, others)
    assert_equal(grads, other_grads)
    recomputing.early_backward = True
    with pytest.raises(InputError, match="early_backward.*with_cp"):
        recomputing.loss(views)


def test_early_backward_without_gradient():
    model = shrunk_model(early_backward=True).train()
    with torch.no_grad():
        assert model.loss(random_views(model))["loss_p5"].isfinite()


# --- layout


def test_channels_last_changes_no_result_and_copies_no_map():
    torch.manual_seed(0)
    plain = shrunk_model().train()
    last = shrunk_model(channels_last=True).train()
    last.load_state_dict(plain.state_dict())
    views = random_views(plain)
    losses, grads = gradients(plain, views)
    given = []
    for part in (last.backbone, last.neck, last.target):
        for name, module in part.named_modules():
            if isinstance(module, nn.Conv2d) and not name.endswith("conv1"):
                module.register_forward_pre_hook(lambda m, x: given.append(x[0]))
    last_losses, last_grads = gradients(last, views)
    assert_equal(losses, last_losses)
    assert_equal(grads, last_grads)
    assert given
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in given)


# --- torch.compile


def test_compiled_parts_compute_the_same():
    torch.manual_seed(0)
    plain = shrunk_model().train()
    compiled = copy.deepcopy(plain)
    names = list(compiled.state_dict())
    compile_parts(compiled, backend="aot_eager")
    assert list(compiled.state_dict()) == names
    views = random_views(plain)
    seen = []
    compiled.neck.register_forward_hook(lambda *args: seen.append(True))
    (losses, grads), (others, other_grads) = (
        gradients(model, views) for model in (plain, compiled)
    )
    assert len(seen) == 2
    assert_equal(losses, others)
    assert_equal(grads, other_grads)
    compiled.head.forward = compiled.head.loss  # not the hook's to take away
    CompileHook().after_train(SimpleNamespace(model=compiled))
    assert "forward" not in vars(compiled.backbone)
    assert "forward" in vars(compiled.head)


def test_compiling_names_the_module_that_is_not_there():
    with pytest.raises(InputError, match="'bakbone'"):
        compile_parts(shrunk_model(), ("bakbone",))


# --- what the log reads


class OnDevice(torch.Tensor):
    """A number that says it lies on an accelerator, and counts who reads it alone."""

    reads = 0

    @property
    def device(self):
        return torch.device("cuda")

    def item(self):
        OnDevice.reads += 1
        return super().item()


def test_metrics_are_read_once_per_line_of_the_log():
    """A line every 3 iterations and, as the host's logger has it, at an epoch's end."""
    hub, hook = MessageHub("deferred"), DeferredInfoHook()
    runner = SimpleNamespace(
        message_hub=hub,
        optim_wrapper=None,
        hooks=[LoggerHook(interval=3), hook],
        train_dataloader=range(8),
    )

    def stored() -> int:
        history = hub.log_scalars.get("train/loss")
        return 0 if history is None else len(history.data[0])

    counts = []
    for batch in [*range(8), *range(2)]:
        number = torch.tensor(float(len(counts)), requires_grad=True) * 1
        outputs = dict(loss=number.as_subclass(OnDevice), plain=1.0)
        hook.after_train_iter(runner, batch, None, outputs)
        assert not any(o["loss"].requires_grad for o in hook.pending)
        counts.append(stored())
    assert counts == [0, 0, 3, 3, 3, 6, 6, 8, 8, 8]
    store_metrics(runner)
    assert stored() == 10
    outputs = dict(loss=torch.tensor(10.0).as_subclass(OnDevice))
    hook.after_train_iter(runner, 3, None, outputs)
    checkpoint = dict(message_hub={})
    hook.before_save_checkpoint(runner, checkpoint)
    values = checkpoint["message_hub"]["log_scalars"]["train/loss"].data[0]
    assert values.tolist() == list(range(11))
    assert OnDevice.reads == 0


def test_bfloat16_clips_as_the_host_does_and_reads_later():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(9)) for _ in range(2)]
    norms = []
    for kind, weight in zip((OptimWrapper, BFloat16OptimWrapper), weights, strict=True):
        weight.data = torch.arange(9.0)
        wrapper = kind(
            optimizer=torch.optim.SGD([weight], lr=0.1), clip_grad=dict(max_norm=1)
        )
        wrapper.update_params((weight**2).sum())
        norms.append(wrapper.message_hub.log_scalars.get("train/grad_norm"))
    assert torch.equal(*weights)
    norm = wrapper.take_grad_norm()
    assert norm.item() == pytest.approx(2 * torch.arange(9.0).norm().item())
    assert wrapper.take_grad_norm() is None
