# Supervised MCL: each tile is classified with its image's label.
_base_ = "mcl.py"

ratios = (1, 2, 4, 8)
model = dict(
    _delete_=True,
    type="MCLSupervised",
    channels_last=True,
    data_preprocessor=dict(
        type="MCLDataPreprocessor",
        montage=dict(type="Montage", size=96, ratios=ratios),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        num_views=1,
    ),
    backbone=_base_.model.backbone,
    neck=_base_.model.neck,
    head=dict(
        type="TileClassifierHead", num_classes=18, in_channels=128, ratios=ratios
    ),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1]["views"] = [dict(blur_prob=0.1, solarize_prob=0.0)]
train_dataloader = dict(
    dataset=dict(dataset=dict(with_label=True, pipeline=train_pipeline))
)
custom_hooks = [
    dict(type="IterationSeedHook"),
    dict(type="NonFiniteLossHook"),
    dict(type="UnreadableImageHook", max_fraction=0.01),
    dict(type="ClassesHook"),
]
