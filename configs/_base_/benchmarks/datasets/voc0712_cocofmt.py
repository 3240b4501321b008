# The same images and boxes in COCO's format, measured as COCO does. MMDetection's
# tools/dataset_converters/pascal_voc.py writes the files (commands in the README).
_base_ = "mmdet::_base_/datasets/coco_detection.py"

data_root = "data/VOCdevkit/"
metainfo = dict(
    classes=(
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="RandomChoiceResize",
        # short side 480 to 800
        scales=[(1333, side) for side in range(480, 801, 32)],
        keep_ratio=True,
    ),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
# 8 GPUs x 2 images = 16
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/voc0712_trainval.json",
        data_prefix=dict(img=""),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/voc07_test.json",
        data_prefix=dict(img=""),
        metainfo=metainfo,
    )
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + "annotations/voc07_test.json")
test_evaluator = val_evaluator
