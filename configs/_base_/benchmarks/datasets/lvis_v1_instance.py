# The base draws images of rare classes more often (class-balanced, 1e-3) and has the
# short sides 640 to 800 already.
_base_ = "mmdet::_base_/datasets/lvis_v1_instance.py"

# 8 GPUs x 2 images = 16
train_dataloader = dict(batch_size=2, sampler=dict(type="InfiniteSampler"))
