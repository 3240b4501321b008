_base_ = [
    "../../_base_/benchmarks/models/cascade-mask-rcnn_r50_fpn-4conv1fc.py",
    "../../_base_/benchmarks/datasets/coco_instance.py",
    "../../_base_/benchmarks/schedules/schedule_90k.py",
    "../../_base_/benchmarks/precise_bn.py",
]
