_base_ = "mmdet::_base_/models/faster-rcnn_r50_fpn.py"

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
    # 4conv1fc, whose convs are pre-trained
    roi_head=dict(bbox_head=dict(type="Shared4Conv1FCBBoxHead", norm_cfg=norm_cfg)),
)
