"""A tiny world after a few training steps; its models can do nothing."""

from dataclasses import replace

from fastrl.tiny.world.config import LearnerConfig, WorldConfig
from fastrl.tiny.world.models import Shape

SMALL = Shape(family="llama", hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, intermediate=32)
LEARNER = LearnerConfig(shape=SMALL, num_steps=3, batch_size=8)
CONFIG = WorldConfig(
    num_train=60,
    num_test=20,
    generator=replace(LEARNER, shape=replace(SMALL, family="qwen3")),
    receiver=LEARNER,
    held_out_receiver=LEARNER,
)
