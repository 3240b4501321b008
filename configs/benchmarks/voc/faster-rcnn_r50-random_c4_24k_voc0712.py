_base_ = [
    "../../_base_/benchmarks/models/faster-rcnn_r50_c4.py",
    "../../_base_/benchmarks/datasets/voc0712.py",
    "../../_base_/benchmarks/schedules/schedule_24k_voc.py",
    "../../_base_/benchmarks/precise_bn.py",
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=20)))
