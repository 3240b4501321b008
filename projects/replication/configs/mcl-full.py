# MCL as released: every canvas through every level, and what is not used thrown away.
_base_ = "mcl.py"

model = dict(neck=dict(computation="full"))
