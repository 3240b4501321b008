# Control: images alone, read from P5. The convs of P2 to P4 are not trained: export
# with --allow-unread, or with --part backbone.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

ratios = (1,)
model = dict(ratios=ratios, head=dict(loss=dict(level_weights=(1,))))
train_pipeline = [
    dict(type="LoadImageOrRaise", defer=True),
    dict(type="MultiLevelViews", size=224, ratios=ratios, colors_on="device"),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
