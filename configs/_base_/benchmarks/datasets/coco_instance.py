_base_ = "mmdet::_base_/datasets/coco_instance.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        # short side 640 to 800
        scales=[(1333, side) for side in range(640, 801, 32)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
# 8 GPUs x 2 images = 16
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(pipeline=train_pipeline),
)
