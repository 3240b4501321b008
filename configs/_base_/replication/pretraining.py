# What every pre-training of the replication shares: images, length, optimizer.
# `data_root` is a folder that tools/replicate.py wrote.
_base_ = ["../default_runtime.py"]
custom_imports = dict(
    imports=["mcl", "projects.quickstart.sampler"], allow_failed_imports=False
)

data_root = "{{$REPLICATION_DATA:work_dirs/replication/small/data/}}"
size = 96
batch_size = 64
max_iters = 1700

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,
    persistent_workers=True,
    pin_memory=False,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    # A folder holds the images of one cut-out: no two of them in a batch. Images of one
    # name have one ground: within a batch it does not tell them apart.
    sampler=dict(
        type="SameNameSampler",
        batch_size=batch_size,
    ),
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

# The learning rate is the middle one of the search. AdamW, as in fine-tuning, was
# chosen by hand, with MCL.
optim_wrapper = dict(
    type="BFloat16OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-2,
        by_epoch=False,
        begin=0,
        end=max_iters // 20,
    ),
    dict(
        type="CosineAnnealingLR",
        T_max=max_iters,
        by_epoch=False,
        begin=0,
        end=max_iters,
    ),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=max_iters // 4, max_keep_ckpts=2),
)
custom_hooks = [
    dict(type="NonFiniteLossHook"),
    dict(type="UnreadableImageHook", max_fraction=0.01),
]
