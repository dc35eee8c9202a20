"""Grade completions against gold answers, with algebra in processes that can be killed."""

from fastrl.grading.exact import exact_verdict
from fastrl.grading.pool import AnswerGrader, Explanation
from fastrl.grading.verdict import Verdict
from fastrl.grading.where import answer_start, extract_answer, find_answer, normalize_answer

__all__ = [
    "AnswerGrader",
    "Explanation",
    "Verdict",
    "answer_start",
    "exact_verdict",
    "extract_answer",
    "find_answer",
    "normalize_answer",
]
