_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

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
    roi_head=dict(
        # three stages, the pre-trained convs in each
        bbox_head=[
            dict(
                type="Shared4Conv1FCBBoxHead",
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                norm_cfg=norm_cfg,
                bbox_coder=dict(
                    type="DeltaXYWHBBoxCoder",
                    target_means=[0.0] * 4,
                    # a stage sees better boxes than the one before
                    target_stds=[side / narrower for side in (0.1, 0.1, 0.2, 0.2)],
                ),
                reg_class_agnostic=True,
                loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False),
                loss_bbox=dict(type="SmoothL1Loss", beta=1.0),
            )
            for narrower in (1, 2, 3)
        ],
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
