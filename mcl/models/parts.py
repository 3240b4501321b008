"""Canvas side and ratios: given once to the model, handed to its parts."""

from collections.abc import Mapping, Sequence

from mmpretrain.registry import MODELS

from ..errors import InputError, one_value

SIZE, RATIOS = 224, (1, 2, 4, 8)


def share_levels(
    data_preprocessor: Mapping,
    neck: Mapping,
    head: Mapping,
    size: int | None = None,
    ratios: Sequence[int] | None = None,
) -> dict[str, dict]:
    """Configs of the three parts with the model's ``size`` and ``ratios`` in them.

    Older configs give both part by part. That works where all of them are equal.

    Args:
        data_preprocessor: with a ``montage``.
        neck, head: of :class:`MCLNeck` and of :class:`MCLHead` or its like.
        size: canvas side S in pixels; None: what the montage says, or 224.
        ratios: tiles along a canvas side, per level; None: what the parts say, or
            (1, 2, 4, 8).

    Raises:
        InputError: when two places differ, there is no montage, or the neck's
            computation needs canvases that the montage does not lay.
    """
    montage = data_preprocessor.get("montage")
    if montage is None:
        raise InputError(
            f"model.data_preprocessor is {data_preprocessor.get('type')}, which makes "
            "no canvases: give MCLDataPreprocessor with a montage"
        )
    places = {
        "model.data_preprocessor.montage": montage,
        "model.neck": neck,
        "model.head": head,
    }
    all_ratios = {f"{name}.ratios": p.get("ratios") for name, p in places.items()}
    ratios = one_value({"model.ratios": ratios, **all_ratios}, RATIOS)
    field = "model.data_preprocessor.montage.size"
    size = one_value({"model.size": size, field: montage.get("size")}, SIZE)
    if neck.get("computation") == "full" and not montage.get("on_canvas", True):
        raise InputError(
            "model.neck.computation='full' needs tiles laid on canvases, which "
            "montage.on_canvas=False does not do: take 'selected'"
        )
    montage = dict(montage, size=size, ratios=ratios)
    return dict(
        data_preprocessor=dict(data_preprocessor, montage=montage),
        neck=dict(neck, ratios=ratios),
        head=dict(head, ratios=ratios),
    )


def share_model(model: Mapping) -> dict[str, dict]:
    """:func:`share_levels` of a model's config."""
    names = ("data_preprocessor", "neck", "head")
    parts = [model.get(name) or {} for name in names]
    return share_levels(*parts, model.get("size"), model.get("ratios"))


def build_preprocessor(model: Mapping):
    """The preprocessor of a model's config, without the rest of the model."""
    return MODELS.build(share_model(model)["data_preprocessor"])
