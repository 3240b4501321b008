_base_ = [
    "../../_base_/benchmarks/models/retinanet_r50_fpn.py",
    "../../_base_/benchmarks/datasets/coco_detection.py",
    "../../_base_/benchmarks/schedules/schedule_90k.py",
    "../../_base_/benchmarks/precise_bn.py",
]

# lr .01 for 16 images
optim_wrapper = dict(optimizer=dict(lr=0.01))
