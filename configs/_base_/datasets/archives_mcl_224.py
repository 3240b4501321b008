# The images inside tar and zip files, not unpacked: shards, one big file, or ImageNet's
# thousand tars, one a class (label_from="archive" with with_label=True).
_base_ = "images_mcl_224.py"

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type="ArchiveImages",
            data_root="data/shards/",
            archives=["*.tar", "*.zip"],
            # Where members lie, for the next run; None: found out anew each time.
            index_file="work_dirs/shards.index.json",
            pipeline=_base_.train_pipeline,
        )
    )
)
