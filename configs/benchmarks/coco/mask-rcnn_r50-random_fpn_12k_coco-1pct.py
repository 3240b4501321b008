# 1 % of the labels, drawn by
#   python tools/sample_labels.py data/coco/annotations/instances_train2017.json \
#       data/coco/annotations/fractions --percent 1 2 5 10 --seed 1
_base_ = "mask-rcnn_r50-random_fpn_12k_coco.py"

train_dataloader = dict(
    dataset=dict(ann_file="annotations/fractions/instances_train2017.seed1@1.json")
)
