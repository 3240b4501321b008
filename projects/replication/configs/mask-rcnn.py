# The one detector that all rows are fine-tuned in: small scenes of 18 classes.
# `load_from` or the backbone's `init_cfg` say where a row starts.
_base_ = "../../../configs/benchmarks/quickstart/mask-rcnn_r18-random_fpn_small.py"

custom_imports = dict(
    imports=["mcl", "projects.replication.hooks"], allow_failed_imports=False
)
custom_hooks = [dict(type="ChannelsLastHook")]

data_root = "{{$REPLICATION_DATA:work_dirs/replication/data-small/}}"
side = 128
metainfo = dict(
    classes=(
        "bird christmas clothes easter fish flower fruit halloween insect mammal "
        "music_instrument planet road_sign sport tool tree vegetable vehicle"
    ).split()
)
num_classes = len(metainfo["classes"])

# A sample a bin in place of one or two: a box's bins measure 0.6 to 2 cells.
roi_extractor = dict(roi_layer=dict(sampling_ratio=1))
model = dict(
    # objects of 17 to 102 pixels
    rpn_head=dict(anchor_generator=dict(scales=[5])),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        bbox_head=dict(num_classes=num_classes),
        mask_roi_extractor=roi_extractor,
        mask_head=dict(num_classes=num_classes),
    ),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2]["scale"] = (side, side)
test_pipeline = _base_.test_pipeline
test_pipeline[1]["scale"] = (side, side)
dataset = dict(data_root=data_root, metainfo=metainfo)
train_dataloader = dict(num_workers=1, dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(num_workers=1, dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator

# A third less time. In training, RoIs are rounded to bfloat16: by 1/512 at most, which
# is a quarter of a pixel here.
optim_wrapper = dict(type="mmpretrain.BFloat16OptimWrapper")
