# COCO's train2017 and unlabeled2017: 118,287 + 123,403 = 241,690 images.
_base_ = "coco_mcl_224.py"

train2017 = _base_.train_dataloader.dataset.dataset
unlabeled2017 = dict(
    type="COCOImages",
    data_root=_base_.data_root,
    ann_file="annotations/image_info_unlabeled2017.json",
    data_prefix="unlabeled2017/",
    pipeline=_base_.train_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type="ConcatDataset",
            datasets=[train2017, unlabeled2017],
        )
    )
)
