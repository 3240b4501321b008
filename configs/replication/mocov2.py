# MoCo v2 of MMPretrain on the same backbone and images.
_base_ = ["../_base_/replication/pretraining.py"]

size = 96
model = dict(
    type="MoCo",
    # About one round of the cut-outs: a longer queue's images have other grounds, which
    # tell them apart, and show the query's own cut-out.
    queue_len=256,
    feat_dim=128,
    momentum=0.01,  # 0.001 is for runs that are far longer
    data_preprocessor=dict(
        type="SelfSupDataPreprocessor",
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
    neck=dict(
        type="MoCoV2Neck",
        in_channels=256,
        hid_channels=512,
        out_channels=128,
        with_avg_pool=True,
    ),
    head=dict(
        type="ContrastiveHead",
        loss=dict(type="CrossEntropyLoss"),
        temperature=0.2,
    ),
)

view = [
    dict(
        type="RandomResizedCrop",
        scale=size,
        crop_ratio_range=(0.2, 1.0),
        backend="pillow",
    ),
    dict(
        type="RandomApply",
        transforms=[
            dict(
                type="ColorJitter",
                brightness=0.4,
                contrast=0.4,
                saturation=0.4,
                hue=0.1,
            )
        ],
        prob=0.8,
    ),
    dict(
        type="RandomGrayscale",
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989),
    ),
    dict(
        type="GaussianBlur",
        # the published (0.1, 2.0) of a crop of 224
        magnitude_range=(0.04, 0.86),
        magnitude_std="inf",
        prob=0.5,
    ),
    dict(type="RandomFlip", prob=0.5),
]
train_pipeline = [
    dict(type="LoadImageOrRaise"),
    dict(type="MultiView", num_views=2, transforms=[view]),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
# The search's middle: of 3.3e-4, 1e-3 and 3e-3 the lowest had the best kNN.
optim_wrapper = dict(optimizer=dict(lr=3.3e-4))
