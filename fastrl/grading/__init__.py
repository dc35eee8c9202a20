"""Does a completion give the right answer? Grading in processes that can be killed."""

from fastrl.grading.answer import exact_verdict, extract_answer, first_answer_marker, normalize_answer
from fastrl.grading.pool import AnswerGrader
from fastrl.grading.verdict import Verdict

__all__ = [
    "AnswerGrader",
    "Verdict",
    "exact_verdict",
    "extract_answer",
    "first_answer_marker",
    "normalize_answer",
]
