# For backbones with layer norm: AdamW, one rate for all layers, no weight decay on norm
# layers, biases and position biases. As long as with LARS.
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

# Warm-up times cosine. Ends are left open: the warm-up is that of
# default_hooks.param_scheduler, the cosine lasts until the last optimizer step.
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=1e-6, by_epoch=False),
]
train_cfg = dict(type="MCLTrainLoop", max_epochs=100)
