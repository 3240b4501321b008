# The images of COCO's train2017, as its annotation file lists them; no labels are read.
# Any file in COCO's format does; captions_train2017.json lists the same 118,287 images
# and is a fifth of the size, which each process reads.
_base_ = "images_mcl_224.py"

data_root = "data/coco/"
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type="COCOImages",
            data_root=data_root,
            ann_file="annotations/instances_train2017.json",
            data_prefix="train2017/",
            pipeline=_base_.train_pipeline,
        )
    )
)
