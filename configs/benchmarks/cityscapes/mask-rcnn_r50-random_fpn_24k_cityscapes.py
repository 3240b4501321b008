# Without the COCO weights that MMDetection's and Detectron2's configs of this data set
# start from: they would replace every start compared here.
_base_ = [
    "../../_base_/benchmarks/models/mask-rcnn_r50_fpn-4conv1fc.py",
    "../../_base_/benchmarks/datasets/cityscapes_instance.py",
    "../../_base_/benchmarks/schedules/schedule_24k_cityscapes.py",
    "../../_base_/benchmarks/precise_bn.py",
]

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=8), mask_head=dict(num_classes=8))
)
