# MCL with 32 images in a batch, for twice as many steps.
_base_ = "mcl.py"

batch_size = 32
max_iters = 2520
train_dataloader = dict(batch_size=batch_size, sampler=dict(batch_size=batch_size))
