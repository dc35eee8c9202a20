"""Problems: read files into prompts and gold answers, render prompts, order an epoch."""

from fastrl.data.order import ProblemOrder
from fastrl.data.problems import (
    Problem,
    as_messages,
    gold_text,
    load_problems,
    reward_columns,
    reward_row,
)
from fastrl.data.prompts import continue_text, render_prompt, render_prompt_text

__all__ = [
    "Problem",
    "ProblemOrder",
    "as_messages",
    "continue_text",
    "gold_text",
    "load_problems",
    "render_prompt",
    "render_prompt_text",
    "reward_columns",
    "reward_row",
]
