# Classification of whole images, the usual supervised pre-training.
_base_ = "pretraining.py"

num_classes = _base_.num_classes
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(num_classes=num_classes, to_rgb=True),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=num_classes, in_channels=256),
)
train_pipeline = [
    dict(type="LoadImageOrRaise"),
    dict(type="RandomResizedCrop", scale=_base_.size, backend="pillow"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    dataset=dict(dataset=dict(with_label=True, pipeline=train_pipeline))
)
custom_hooks = _base_.plain_hooks
