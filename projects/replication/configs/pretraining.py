# What all pre-trainings of the replication share: images, backbone, length, optimizer.
# The data set is a folder that `python -m projects.replication.run` made.
_base_ = ["../../../configs/_base_/default_runtime.py"]
custom_imports = dict(
    imports=["mcl", "projects.quickstart.sampler"], allow_failed_imports=False
)

data_root = "{{$REPLICATION_DATA:work_dirs/replication/data-small/}}"
size = 96
max_iters = 1700
num_classes = 18
mlp = dict(hid_channels=512, out_channels=128)  # projectors and predictors

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(  # a ResNet-18 of half width
        type="ResNet",
        depth=18,
        stem_channels=32,
        base_channels=32,
        norm_cfg=dict(type="BN"),
        zero_init_residual=False,
    ),
)

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    pin_memory=False,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    # Images of a batch share their ground, which then does not tell them apart, and
    # show different cut-outs.
    sampler=dict(type="SameNameSampler"),
    dataset=dict(
        type="ReplayableDataset",
        dataset=dict(
            type="CustomDataset",
            data_root=data_root + "pretrain/",
            with_label=False,
            extensions=(".jpg",),
            pipeline=[],  # each method's own
        ),
    ),
)

optim_wrapper = dict(
    type="BFloat16OptimWrapper",
    # The learning rate is the middle one of the search.
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, end=max_iters // 20),
    dict(type="CosineAnnealingLR", T_max=max_iters, by_epoch=False, end=max_iters),
]
# Of methods without MCL's target and montage.
plain_hooks = [
    dict(type="NonFiniteLossHook"),
    dict(type="UnreadableImageHook", max_fraction=0.01),
]
train_cfg = dict(type="MCLTrainLoop", max_iters=max_iters)
checkpoint = dict(interval=max_iters // 4, max_keep_ckpts=2)
default_hooks = dict(logger=dict(interval=20), checkpoint=checkpoint)
