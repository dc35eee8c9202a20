"""Public API of the kernels, for use in any trainer."""

from fastrl.kernels._outputs import LogprobOutput, LossOutput
from fastrl.kernels.config import LossConfig
from fastrl.kernels.group_advantage import GroupRewards, group_advantage
from fastrl.kernels.grpo_loss import grpo_loss
from fastrl.kernels.linear_grpo_loss import linear_grpo_loss
from fastrl.kernels.linear_logprob import linear_logprob
from fastrl.kernels.logits_grpo_loss import logits_grpo_loss
from fastrl.kernels.prefix_attention import TreeLayout, prefix_attention
from fastrl.kernels.prefix_tree import PrefixForest, prefix_tree
from fastrl.kernels.sample_tokens import sample_tokens
from fastrl.kernels.tree_decode import DecodePlan, tree_decode

__all__ = [
    "DecodePlan",
    "GroupRewards",
    "LogprobOutput",
    "LossConfig",
    "LossOutput",
    "PrefixForest",
    "TreeLayout",
    "group_advantage",
    "grpo_loss",
    "linear_grpo_loss",
    "linear_logprob",
    "logits_grpo_loss",
    "prefix_attention",
    "prefix_tree",
    "sample_tokens",
    "tree_decode",
]
