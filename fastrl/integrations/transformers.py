"""Registers the attention implementation fastrl_prefix with transformers when imported.

    import fastrl.integrations.transformers
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="fastrl_prefix")

For verl, set VERL_USE_EXTERNAL_MODULES=fastrl.integrations.transformers.
"""

from fastrl.policy.prefix_attention import PREFIX

__all__ = ["PREFIX"]
