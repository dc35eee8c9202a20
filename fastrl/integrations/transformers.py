"""Importing this registers fastrl_prefix with transformers, for every trainer that is made of its models.

    import fastrl.integrations.transformers
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="fastrl_prefix")

verl takes it as well: VERL_USE_EXTERNAL_MODULES=fastrl.integrations.transformers.
"""

from fastrl.policy.prefix_attention import PREFIX

__all__ = ["PREFIX"]
