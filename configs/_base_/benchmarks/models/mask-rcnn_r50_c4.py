# Mask R-CNN C4: RPN and RoIAlign read the map of stage 4, stage 5 is the head.
_base_ = "mmdet::_base_/models/mask-rcnn_r50-caffe-c4.py"

norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    # the images of pre-training: RGB, its mean and deviation
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    # stride in the 3x3 conv; nothing frozen, BN trained everywhere
    backbone=dict(
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        style="pytorch",
        zero_init_residual=False,
        init_cfg=None,
    ),
    roi_head=dict(
        # a list is built as a sequence: res5, then the extra norm layer of MoCo's C4
        shared_head=[
            dict(
                type="ResLayer",
                depth=50,
                stage=3,
                stride=2,
                style="pytorch",
                norm_cfg=norm_cfg,
                norm_eval=False,
                init_cfg=None,
            ),
            dict(type="SyncBN", num_features=2048),
        ]
    ),
    # anchors across the border are trained too, as in Detectron2 and the FPN rows
    train_cfg=dict(rpn=dict(allowed_border=-1)),
)
