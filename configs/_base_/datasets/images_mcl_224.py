# Any folder of images: recursive, no labels, no list file. ImageNet as it unpacks.
data_root = "data/imagenet/train/"
extensions = tuple(
    f".{e}" for e in "jpg jpeg jfif png webp ppm pgm bmp tif tiff".split()
)

train_pipeline = [
    # defer: large JPEGs are decoded at a fraction of their size, where crops allow it
    dict(type="LoadImageOrRaise", defer=True),
    dict(
        type="MultiLevelViews",
        size=224,
        ratios=(1, 2, 4, 8),
        # The same draws applied by the "worker" are for machines without a GPU.
        colors_on="device",
    ),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type="default_collate"),
    sampler=dict(type="ReplayableSampler"),
    dataset=dict(
        type="ReplayableDataset",
        dataset=dict(
            type="CustomDataset",
            data_root=data_root,
            with_label=False,
            extensions=extensions,
            pipeline=train_pipeline,
        ),
    ),
)
