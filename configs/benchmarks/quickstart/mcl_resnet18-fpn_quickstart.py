# The quickstart's pre-training: the tiny recipe, each batch on one ground.
# Its sampler is a module of projects/: start it with PYTHONPATH=. from the root.
_base_ = "../../mcl/mcl_resnet18-fpn_1xb64-cpu-coslr_folder.py"
custom_imports = dict(imports=["mcl", "projects.quickstart.sampler"])

data_root = "{{$QUICKSTART_DATA:data/quickstart/}}"
train_dataloader = dict(
    # With a ground of its own an image is told by that, and the detector gains less.
    sampler=dict(type="SameNameSampler"),
    dataset=dict(dataset=dict(data_root=data_root + "pretrain/")),
)
