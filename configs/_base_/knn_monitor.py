# Nearest neighbors on labeled images while pre-training runs. A list of hooks does
# not merge with another, so name this file in _base_ and add the hook by hand:
#
#     _base_ = [
#         "mcl_resnet50-fpn_32xb128-amp-coslr-100e_in1k.py",
#         "../_base_/knn_monitor.py",
#     ]
#     custom_hooks = [*_base_.custom_hooks, _base_.knn_monitor]
#
# Or without this file, with the folders on one line:
#
#     custom_hooks = [*_base_.custom_hooks, dict(type="KNNHook", train=..., val=...)]
knn_monitor = dict(
    type="KNNHook",
    # a sub-folder of images for each class
    train="data/imagenet/train",
    val="data/imagenet/val",
    interval=5000,
    k=20,
    temperature=0.07,
    # of 1,000 classes: 20,000 images to vote and as many to be classified
    images_per_class=20,
)
