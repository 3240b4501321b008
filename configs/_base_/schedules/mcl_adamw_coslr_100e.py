# For backbones with layer norm: AdamW, one rate for all layers, no weight decay on norm
# layers, biases and position biases. 31,200 steps as with LARS.
optim_wrapper = dict(
    # lr 2.4e-3 = 1.5e-4 x 4096 images / 256
    optimizer=dict(type="AdamW", lr=2.4e-3, betas=(0.9, 0.95), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={"relative_position_bias_table": dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=5.0),
)

# 10 epochs of warm-up: 3,120 steps
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=False, begin=0, end=3121),
    dict(
        type="CosineAnnealingLR",
        T_max=31200,
        eta_min=1e-6,
        by_epoch=False,
        begin=0,
        end=31200,
    ),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=31200)
