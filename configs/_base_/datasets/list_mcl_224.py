# The images that a text file lists, a path a line, relative to data_root. For lines
# `path label`, with whole numbers from 0 on, set with_label=True.
_base_ = "images_mcl_224.py"

train_dataloader = dict(
    dataset=dict(dataset=dict(data_root="data/images/", ann_file="train.txt"))
)
