# Classification of whole images, the usual supervised pre-training.
_base_ = ["../_base_/replication/pretraining.py"]

model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(
        num_classes=18,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    backbone=dict(
        type="ResNet",
        depth=18,
        stem_channels=32,
        base_channels=32,
        norm_cfg=dict(type="BN"),
        zero_init_residual=False,
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=18,
        in_channels=256,
        loss=dict(type="CrossEntropyLoss"),
    ),
)
train_pipeline = [
    dict(type="LoadImageOrRaise"),
    dict(type="RandomResizedCrop", scale=96, backend="pillow"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    dataset=dict(dataset=dict(with_label=True, pipeline=train_pipeline))
)
