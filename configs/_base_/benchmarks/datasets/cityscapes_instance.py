_base_ = "mmdet::_base_/datasets/cityscapes_instance.py"

data_root = "data/cityscapes/"
ann_file = data_root + "annotations/instancesonly_filtered_gtFine_val.json"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(
        type="RandomChoiceResize",
        # short side 800 to 1024
        scales=[(2048, side) for side in range(800, 1025, 32)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
# 8 GPUs x 1 image = 8; the sampler does not end, so nothing needs repeating
train_dataloader = dict(
    batch_size=1,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(times=1, dataset=dict(pipeline=train_pipeline)),
)

# A temporary folder: MMDetection's is one that runs side by side would empty.
val_evaluator = [
    dict(type="CocoMetric", ann_file=ann_file, metric=["bbox", "segm"]),
    dict(
        type="CityScapesMetric",
        seg_prefix=data_root + "gtFine/val",
        outfile_prefix=None,
    ),
]
test_evaluator = val_evaluator
