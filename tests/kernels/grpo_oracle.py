"""Expected losses in float64: one sequence and one token at a time, with textbook min and max."""

from __future__ import annotations

import torch
from torch import Tensor

SEQUENCE_MEAN = ("grpo", "gspo")


def oracle_logprobs(hidden, weight, ids, bias=None, temperature=1.0, logit_scale=1.0, softcap=None):
    """(logprobs, entropy, self_certainty, top1), differentiable, from rounded inputs widened to float64."""
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * logit_scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    temperature = torch.as_tensor(temperature, dtype=torch.float64).expand(len(ids))
    logits = logits / temperature[:, None]
    normaliser = logits.logsumexp(-1)
    logprobs = logits[torch.arange(len(ids)), ids] - normaliser
    p = (logits - normaliser[:, None]).exp()
    entropy = normaliser - (p * logits).sum(-1)
    uniform = torch.full((logits.shape[1],), 1 / logits.shape[1], dtype=torch.float64)
    self_certainty = (uniform * (uniform.log() - (logits - normaliser[:, None]))).sum(-1)
    top1 = torch.tensor([bool(row[i] == row.max()) for row, i in zip(logits, ids, strict=True)])
    return logprobs, entropy, self_certainty, top1


def oracle_loss(
    logprobs: Tensor,
    entropy: Tensor,
    cu_seqlens,
    advantages,
    loss_mask,
    old=None,
    ref=None,
    rollout=None,
    *,
    config,
    denominator,
) -> tuple[Tensor, dict[str, float]]:
    """(loss, a few counts); all tensors float64, advantages one a token."""
    total = logprobs.new_zeros(())
    counts = {"clip_low": 0, "clip_high": 0, "kl": 0.0, "weights": []}
    old = logprobs.detach() if old is None else old
    for begin, end in zip(cu_seqlens.tolist()[:-1], cu_seqlens.tolist()[1:], strict=True):
        tokens = [t for t in range(begin, end) if loss_mask[t]]
        if not tokens:
            continue
        sequence_ratio = torch.stack([logprobs[t].detach() - old[t] for t in tokens]).mean()
        gaps = [0.0 if rollout is None or rollout[t].isnan() else float(old[t] - rollout[t]) for t in tokens]
        whole = correction(sum(gaps), config)
        if rollout is not None and config.correction.startswith("sequence"):
            counts["weights"].append(whole)
        for t, gap in zip(tokens, gaps, strict=True):
            if config.loss_type == "gspo":
                ratio = (sequence_ratio + logprobs[t] - logprobs[t].detach()).exp()
            else:
                ratio = (logprobs[t] - old[t]).exp()
            value = policy(ratio, logprobs[t], advantages[t], config, counts)
            if rollout is not None:
                one = correction(gap, config)
                value = value * (whole if config.correction.startswith("sequence") else one)
                if config.correction.startswith("token"):
                    counts["weights"].append(one)
            if ref is not None:
                estimate = kl(logprobs[t], ref[t], config)
                if config.kl_ratio:
                    estimate = estimate * ratio
                counts["kl"] += estimate.item()
                value = value + config.kl_coef * estimate
            value = value - config.entropy_coef * entropy[t]
            total = total + value / (len(tokens) if config.loss_type in SEQUENCE_MEAN else 1)
    return total / denominator, counts


def policy(ratio, logprob, advantage, config, counts):
    low, high = 1 - config.clip_eps_low, 1 + config.eps_high
    if config.loss_type == "rloo":
        return -advantage * logprob
    if config.loss_type == "cispo":
        weight = ratio.detach()
        if config.cispo_bound == "absolute":
            counts["clip_high"] += bool(weight > config.eps_high and advantage > 0)
            weight = weight.clamp(max=config.eps_high)
        else:
            counts["clip_low"] += bool(weight < low)
            counts["clip_high"] += bool(weight > high)
            weight = weight.clamp(low, high)
        return -weight * advantage * logprob
    counts["clip_low"] += bool(ratio < low and advantage < 0)
    counts["clip_high"] += bool(ratio > high and advantage > 0)
    value = torch.maximum(-ratio * advantage, -ratio.clamp(low, high) * advantage)
    if config.dual_clip is not None and advantage < 0:
        value = torch.minimum(value, -config.dual_clip * advantage)
    return value


def kl(logprob, ref, config):
    difference = logprob - ref
    if config.kl_estimator == "k1":
        return difference
    if config.kl_estimator == "k2":
        return difference**2 / 2
    return (-difference).exp() + difference - 1


def correction(gap: float, config) -> float:
    if config.correction == "none":
        return 1.0
    weight = torch.tensor(gap, dtype=torch.float64).exp().item()
    if weight <= config.correction_cap:
        return weight
    return config.correction_cap if config.correction.endswith("truncate") else 0.0
