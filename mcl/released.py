"""Names in the authors' released code (OpenSelfSup layout) for ours."""

import re

# Ours to theirs. Their trunk is a sequence: 0 backbone, 1 FPN, 2 region part.
_RULES = (
    (r"^backbone\.", "encoder_q.0."),
    (r"^neck\.(lateral_convs|fpn_convs)\.", r"encoder_q.1.\1."),
    (r"^neck\.shared_convs\.", "encoder_q.2.cls_convs."),
    (r"^neck\.projector\.fc0\.", "encoder_q.2.mlp.0."),
    (r"^neck\.projector\.bn0\.", "encoder_q.2.mlp.1."),
    (r"^neck\.projector\.fc1\.", "encoder_q.2.mlp.3."),
    (r"^neck\.projector\.bn1\.", "encoder_q.2.mlp.4."),
    (r"^head\.predictors\.(\d+)\.fc0\.", r"head.predictor.\1.mlp.0."),
    (r"^head\.predictors\.(\d+)\.bn0\.", r"head.predictor.\1.mlp.1."),
    (r"^head\.predictors\.(\d+)\.fc1\.", r"head.predictor.\1.mlp.3."),
)


def released_name(name: str) -> str:
    """The authors' name of one of our weights; a foreign name stays as it is.

    Example:
        >>> released_name('neck.projector.bn0.weight')
        'encoder_q.2.mlp.1.weight'
        >>> released_name('target.backbone.conv1.weight')
        'encoder_k.0.conv1.weight'
    """
    target = name.startswith("target.")
    for pattern, replacement in _RULES:
        renamed, found = re.subn(pattern, replacement, name.removeprefix("target."))
        if found:
            return renamed.replace("encoder_q", "encoder_k") if target else renamed
    return name
