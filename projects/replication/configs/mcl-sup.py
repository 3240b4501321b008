# Supervised MCL: each tile is classified with its image's label.
_base_ = "mcl.py"

model = dict(
    _delete_=True,
    type="MCLSupervised",
    size=_base_.size,
    ratios=_base_.ratios,
    channels_last=True,
    data_preprocessor=dict(num_views=1, **_base_.model.data_preprocessor),
    backbone=_base_.model.backbone,
    neck=_base_.model.neck,
    head=dict(
        type="TileClassifierHead",
        num_classes=_base_.num_classes,
        in_channels=_base_.mlp.out_channels,
    ),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1]["views"] = [dict(blur_prob=0.1, solarize_prob=0.0)]
train_dataloader = dict(
    dataset=dict(dataset=dict(with_label=True, pipeline=train_pipeline))
)
seed, classes = dict(type="IterationSeedHook"), dict(type="ClassesHook")
custom_hooks = [seed, *_base_.plain_hooks, classes]
