_base_ = "faster-rcnn_r50-random_fpn_24k_voc0712-cocofmt.py"

load_from = "work_dirs/mcl_resnet50-fpn_mask-rcnn.pth"
