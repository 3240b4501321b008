# Stock MMDetection alone: its 2fc box head, no PreciseBN.
_base_ = [
    "../../_base_/benchmarks/models/mask-rcnn_r50_fpn.py",
    "../../_base_/benchmarks/datasets/coco_instance.py",
    "../../_base_/benchmarks/schedules/schedule_12k.py",
]
