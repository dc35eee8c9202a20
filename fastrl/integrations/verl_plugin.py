"""Entry point of group verl.plugins, imported with verl in the driver and in every worker.

verl skips a failing plugin silently, so this module logs a warning.
"""

import logging

try:
    from fastrl.integrations import verl, verl_rewards
except (ImportError, RuntimeError) as error:
    logging.getLogger(__name__).warning("[verl] plugin: expected fastrl's losses and rewards, got %s", error)
    raise

__all__ = ["verl", "verl_rewards"]
