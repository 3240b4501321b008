_base_ = "faster-rcnn_r50-random_c4_24k_voc0712-cocofmt.py"

load_from = "work_dirs/mcl_resnet50-fpn_c4.pth"
