# Tiny: a ResNet-18 of half width on small images, for a CPU and a first look.
# `--cfg-options train_dataloader.dataset.dataset.data_root=FOLDER` for own images.
_base_ = [
    "../_base_/models/mcl_resnet50-fpn.py",
    "../_base_/datasets/images_mcl_224.py",
    "../_base_/default_runtime.py",
]

size = 64  # tiles of 64, 32, 16 and 8 pixels, each 2 x 2 cells

model = dict(
    base_momentum=0.1,  # the paper's 0.01 averages 100 of 31,000 steps
    size=size,
    backbone=dict(depth=18, stem_channels=32, base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    head=dict(loss=dict(temperature=0.1)),
)
model["neck"]["projector"] = dict(hid_channels=512, out_channels=128)
model["head"]["predictor"] = dict(in_channels=128, hid_channels=512, out_channels=128)

train_pipeline = [
    dict(type="LoadImageOrRaise", defer=True),
    dict(
        type="MultiLevelViews",
        size=size,
        ratios=(1, 2, 4, 8),
        # the paper's (0.1, 2.0) of a crop of 224, for one of 64
        blur_sigma=(0.03, 0.6),
        colors_on="worker",
    ),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    pin_memory=False,
    dataset=dict(dataset=dict(data_root="data/images/", pipeline=train_pipeline)),
)

# LARS is for thousands of images per step. With SGD at 0.05, T = 0.2 and the paper's
# average, the quickstart's detector was worse than from random weights.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False),
    dict(type="CosineAnnealingLR", by_epoch=False),
]
# Or so many times each image: max_epochs in place of max_iters
train_cfg = dict(type="MCLTrainLoop", max_iters=1000)
default_hooks = dict(
    param_scheduler=dict(warmup_epochs=None, warmup_steps=50),
    logger=dict(interval=20),
    checkpoint=dict(interval=1000),
)
auto_scale_lr = dict(base_batch_size=64)
