_base_ = "mask-rcnn_r50-random_fpn_1x_wd25e-6_coco.py"

model = dict(
    backbone=dict(
        init_cfg=dict(
            _delete_=True, type="Pretrained", checkpoint="torchvision://resnet50"
        )
    )
)
