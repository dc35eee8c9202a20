"""Prompts of the verifying model: first a guided solution, then the check of an attempt."""

from __future__ import annotations

from fastrl.config import ProposalConfig
from fastrl.methods.interventions.segment import Steps, filled
from fastrl.types import Message

SOLVE = """\
You coach a team for mathematics olympiads. Below are a problem and an outline of its solution by \
somebody who is known to be right.

Problem:
{question}

Outline of a right solution:
{reference}

Work the problem out yourself, one step after the other, along this outline. Fill in every argument and \
every intermediate result that the outline leaves out, and finish with the answer."""

VERIFY = """\
Now one of your students has tried the same problem and reached a wrong answer. The attempt, cut into \
numbered substeps:

{steps}

Hold the attempt against the solution above and write three sections.

1. Verification log. Go through the substeps in order. Quote the words you are judging. Recompute each \
intermediate result, also those that look obvious. A sound substep needs a short remark; a doubtful one \
needs the reason.

2. Error report. Name the problems you found, up to and including the first critical error. A critical \
error is a false statement or an invalid inference that ruins the line of argument and that the student \
does not notice and repair later on: before you call an error critical, read on and look for a \
correction. Give the number of its substep.

3. Intervention. Write the one step that should stand in place of the substep with the first critical \
error, so that the student can go on from there. Write it in the student's voice, as the next thought \
after the substeps before it, and sketch concretely how the work continues. Do not state the final \
answer. If there is no critical error, leave it empty.
   First write a draft. Then answer these questions about it with yes or no:
   - Does it contain the final answer, {answer}?
   - Does it leave out an idea without which the student would fail again?
   - Does it belong after the substep with the error, so that the error would stay?
   Revise the draft until every answer is no.

End with the result, the substep counted as above, in exactly this form:
<intervention>{"content": "the step", "location": number of the substep that it replaces}</intervention>"""

SHORT = """\
A student got this problem wrong.

Problem:
{question}

Right solution:
{reference}

The student's attempt, in numbered substeps:

{steps}

Find the first substep with an error that spoils the rest. Write the step that should stand in its \
place: short, in the student's voice, without the final answer. Reply with JSON only, "content" empty if \
nothing is wrong:
{"location": number of the substep, "content": "the step"}"""


class ProposalPrompts:
    """Renders the conversations of a proposal form, from built-in or configured templates."""

    def __init__(self, config: ProposalConfig) -> None:
        own = SHORT if config.form == "short" else VERIFY
        self.solve_template = SOLVE if config.solve_template is None else config.solve_template
        self.verify_template = own if config.verify_template is None else config.verify_template
        self.config = config

    def solve(self, question: str, reference: str) -> list[Message]:
        """Return the first turn of form full: the request for a guided solution."""
        text = filled(self.solve_template, question=question, reference=reference)
        return [Message(role="user", content=text)]

    def verify(
        self, question: str, reference: str, answer: str, solution: str | None, steps: Steps
    ) -> list[Message]:
        """Return the conversation whose last message holds the attempt.

        Args:
            answer: the gold answer, for {answer}.
            solution: the guided solution, the model's reply to `solve`; None in form short.
        """
        shown = steps.numbered(self.config.step_template, self.config.between_steps)
        text = filled(
            self.verify_template, question=question, reference=reference, answer=answer, steps=shown
        )
        request = Message(role="user", content=text)
        if solution is None:
            return [request]
        return [*self.solve(question, reference), Message(role="assistant", content=solution), request]
