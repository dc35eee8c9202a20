"""What the entry point of group verl.plugins loads on `import verl`, in the driver and in every worker.

verl drops a plugin that fails without a word: here it is said.
"""

import logging

try:
    from fastrl.integrations import verl, verl_rewards
except (ImportError, RuntimeError) as error:
    logging.getLogger(__name__).warning("[verl] plugin: expected fastrl's losses and rewards, got %s", error)
    raise

__all__ = ["verl", "verl_rewards"]
