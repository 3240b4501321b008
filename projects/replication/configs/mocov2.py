# MoCo v2 of MMPretrain on the same backbone and images.
_base_ = "pretraining.py"

model = dict(
    type="MoCo",
    # About one round of the cut-outs: a longer queue's images have other grounds, which
    # tell them apart, and show the query's own cut-out.
    queue_len=256,
    feat_dim=_base_.mlp.out_channels,
    momentum=0.01,  # 0.001 is for runs that are far longer
    data_preprocessor=dict(type="SelfSupDataPreprocessor", to_rgb=True),
    neck=dict(type="MoCoV2Neck", in_channels=256, with_avg_pool=True, **_base_.mlp),
    head=dict(
        type="ContrastiveHead", loss=dict(type="CrossEntropyLoss"), temperature=0.2
    ),
)

crop = dict(scale=_base_.size, crop_ratio_range=(0.2, 1.0), backend="pillow")
jitter = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
gray = dict(keep_channels=True, channel_weights=(0.114, 0.587, 0.2989))
blur = (0.04, 0.86)  # the published (0.1, 2.0) of a crop of 224
view = [
    dict(type="RandomResizedCrop", **crop),
    dict(type="RandomApply", transforms=[dict(type="ColorJitter", **jitter)], prob=0.8),
    dict(type="RandomGrayscale", prob=0.2, **gray),
    dict(type="GaussianBlur", magnitude_range=blur, magnitude_std="inf", prob=0.5),
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
custom_hooks = _base_.plain_hooks
