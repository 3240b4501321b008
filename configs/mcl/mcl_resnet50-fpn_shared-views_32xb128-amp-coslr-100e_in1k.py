# Control: 2 crops of an image in place of 8, each resized for every level.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

train_pipeline = [
    dict(type="LoadImageOrRaise", defer=True),
    dict(
        type="MultiLevelViews",
        size=224,
        ratios=(1, 2, 4, 8),
        shared_levels=True,
        colors_on="device",
    ),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
