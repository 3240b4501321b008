_base_ = [
    "../../_base_/benchmarks/models/mask-rcnn_r50_fpn-4conv1fc.py",
    "../../_base_/benchmarks/datasets/lvis_v1_instance.py",
    "../../_base_/benchmarks/schedules/schedule_90k.py",
    "../../_base_/benchmarks/precise_bn.py",
]

model = dict(
    roi_head=dict(bbox_head=dict(num_classes=1203), mask_head=dict(num_classes=1203)),
    # many classes: keep low scores, and 300 boxes an image
    test_cfg=dict(rcnn=dict(score_thr=1e-4, max_per_img=300)),
)
