# RetinaNet: P3 to P7, norm layers in the whole FPN, none in the head.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"

norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    # nothing frozen, BN trained everywhere
    backbone=dict(
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        zero_init_residual=False,
        init_cfg=None,
    ),
    neck=dict(norm_cfg=norm_cfg),
)
