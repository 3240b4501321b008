# Mask R-CNN with the stock 2fc box head. The pre-trained FPN has norm layers, so
# this one has them; nothing is frozen, BN is trained everywhere.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    backbone=dict(
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        zero_init_residual=False,
        init_cfg=None,
    ),
    neck=dict(norm_cfg=norm_cfg),
)
