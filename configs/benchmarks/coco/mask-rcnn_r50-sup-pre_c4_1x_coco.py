_base_ = "mask-rcnn_r50-random_c4_1x_coco.py"

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True, type="Pretrained", checkpoint="torchvision://resnet50"
        )
    ),
    roi_head=dict(
        shared_head=[
            dict(
                _base_.model.roi_head.shared_head[0],
                init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet50"),
            ),
            _base_.model.roi_head.shared_head[1],
        ]
    ),
)
