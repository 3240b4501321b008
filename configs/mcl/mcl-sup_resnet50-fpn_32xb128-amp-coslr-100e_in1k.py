# Supervised MCL: each tile is classified with its image's label; one view, no target
# network. The paper gives no recipe for it: all else is that of the contrastive one.
_base_ = "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py"

model = dict(
    _delete_=True,
    type="MCLSupervised",
    size=224,
    ratios=(1, 2, 4, 8),
    channels_last=True,
    data_preprocessor=dict(
        type="MCLDataPreprocessor",
        montage=dict(type="Montage"),
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        num_views=1,
        non_blocking=True,
    ),
    backbone=dict(
        type="ResNet",
        depth=50,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN"),
        zero_init_residual=False,
    ),
    neck=dict(type="MCLNeck", in_channels=[256, 512, 1024, 2048]),
    head=dict(
        type="TileClassifierHead",
        num_classes=1000,
        level_weights=(1 / 2, 1 / 4, 1 / 8, 1 / 8),
        shared=True,
        label_smoothing=0.1,
    ),
)
custom_hooks = [
    dict(type="IterationSeedHook"),
    dict(type="NonFiniteLossHook"),
    dict(type="UnreadableImageHook", max_fraction=0.01),
    # Data sets and head must mean the same classes.
    dict(type="ClassesHook"),
]

# The first view of the contrastive recipe blurs every crop; labels need sharp ones.
train_pipeline = [
    dict(type="LoadImageOrRaise", defer=True),
    dict(
        type="MultiLevelViews",
        size=224,
        ratios=(1, 2, 4, 8),
        views=[dict(blur_prob=0.1, solarize_prob=0.0)],
        colors_on="device",
    ),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    dataset=dict(dataset=dict(with_label=True, pipeline=train_pipeline))
)

val_pipeline = [
    dict(type="LoadImageOrRaise"),
    dict(type="ResizeEdge", scale=256, edge="short", backend="pillow"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type="default_collate"),
    # Classes mixed, always in the same way: tiles share their canvas with those of the
    # next images, which are of one class in a folder's order.
    sampler=dict(type="DefaultSampler", shuffle=True, seed=0),
    # An image that cannot be read is replaced and named, as in training.
    dataset=dict(
        type="ReplayableDataset",
        dataset=dict(
            type="CustomDataset",
            data_root="data/imagenet/val/",
            with_label=True,
            extensions=_base_.extensions,
            pipeline=val_pipeline,
        ),
    ),
)
# images alone, and as tiles of each level
val_evaluator = [dict(type="Accuracy", topk=(1,)), dict(type="LevelAccuracy")]
val_cfg = dict()
train_cfg = dict(val_interval=3120)
