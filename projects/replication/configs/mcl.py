# MCL, assignment (a).
_base_ = "pretraining.py"

size = _base_.size  # tiles of 96, 48, 24 and 12 pixels, each 3 x 3 cells
ratios = (1, 2, 4, 8)

model = dict(
    type="MCL",
    size=size,
    ratios=ratios,
    # The paper's 0.01 averages 100 of 31,000 steps. In runs as short as these it
    # learned more slowly.
    base_momentum=0.1,
    channels_last=True,
    data_preprocessor=dict(
        type="MCLDataPreprocessor",
        montage=dict(type="Montage"),
    ),
    backbone=dict(out_indices=(0, 1, 2, 3)),
    neck=dict(
        type="MCLNeck",
        in_channels=[32, 64, 128, 256],
        out_channels=64,
        projector=_base_.mlp,
    ),
    head=dict(
        type="MCLHead",
        predictor=dict(in_channels=_base_.mlp.out_channels, **_base_.mlp),
        loss=dict(
            type="MultiLevelContrastiveLoss",
            level_weights=(1 / 2, 1 / 4, 1 / 8, 1 / 8),
            temperature=0.1,
        ),
    ),
)

train_pipeline = [
    dict(type="LoadImageOrRaise", defer=True),
    dict(
        type="MultiLevelViews",
        size=size,
        ratios=ratios,
        # the paper's (0.1, 2.0) of a crop of 224
        blur_sigma=(0.04, 0.86),
        colors_on="device",
    ),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
