# MCL with images alone, read from P5: one level.
_base_ = "mcl.py"

ratios = (1,)
model = dict(ratios=ratios, head=dict(loss=dict(level_weights=(1,))))
train_pipeline = _base_.train_pipeline
train_pipeline[1]["ratios"] = ratios
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
