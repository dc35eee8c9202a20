"""Does a completion give the right answer? Grading in processes that can be killed."""

from fastrl.verify.answer import exact_verdict, extract_answer, first_answer_marker, normalize_answer
from fastrl.verify.pool import AnswerGrader
from fastrl.verify.verdict import Verdict

__all__ = [
    "AnswerGrader",
    "Verdict",
    "exact_verdict",
    "extract_answer",
    "first_answer_marker",
    "normalize_answer",
]
