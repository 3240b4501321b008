# VOC07+12 trainval in XML, tested on 07.
_base_ = "mmdet::_base_/datasets/voc0712.py"

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
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    # after Resize: the metric compares with boxes of the original size
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
# 8 GPUs x 2 images = 16; the sampler does not end, so nothing needs repeating
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type="InfiniteSampler"),
    dataset=dict(
        times=1,
        dataset=dict(
            datasets=[
                dict(
                    type="VOCDataset",
                    data_root="data/VOCdevkit/",
                    ann_file=f"VOC{year}/ImageSets/Main/trainval.txt",
                    data_prefix=dict(sub_data_root=f"VOC{year}/"),
                    # the base's bbox_min_size would not train objects below 32 pixels
                    filter_cfg=dict(filter_empty_gt=True, min_size=32),
                    pipeline=train_pipeline,
                )
                for year in (2007, 2012)
            ]
        ),
    ),
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# mAP over the ten thresholds is Detectron2's AP; AP50 and AP75 are by its side
val_evaluator = dict(iou_thrs=[t / 100 for t in range(50, 100, 5)])
test_evaluator = val_evaluator
