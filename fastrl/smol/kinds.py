"""Kinds of exercises: chains of digits, countdown, word problems; one function draws each kind."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from fastrl.smol.exercise import Exercise, Term, work

LARGEST_TARGET = 99
NAMES = (
    "Mia", "Ben", "Ana", "Tom", "Lea", "Sam", "Eva", "Max", "Ida", "Leo", "Zoe", "Jan", "Amy", "Nils", "Ruth",
    "Omar",
)  # fmt: skip
THINGS = ("apples", "pens", "books", "coins", "stamps", "shells", "cards", "marbles", "stickers", "buttons")
GAINS = ("buys {} more", "finds {} more", "is given {} more", "wins {} more")
LOSSES = ("gives {} away", "loses {}", "sells {}", "throws {} away")


def draw_chain(random: Random) -> Exercise:
    """Draw three to five digits, added and subtracted from left to right."""
    start, *others = (random.randint(1, 9) for _ in range(random.randint(3, 5)))
    terms = tuple((random.choice("+-"), other) for other in others)
    formula = " ".join([str(start), *(f"{operation} {operand}" for operation, operand in terms)])
    return Exercise(question=f"What is {formula}?", start=start, terms=terms)


def draw_countdown(random: Random) -> Exercise:
    """Draw three or four numbers and a target that they make; the formula must use each number once."""
    while True:
        start, *others = random.sample(range(1, 11), random.randint(3, 4))
        terms = tuple((random.choice("+-*"), other) for other in others)
        target = work(start, terms)[-1]
        if 0 < target <= LARGEST_TARGET:
            break
    numbers = sorted([start, *others])
    listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return Exercise(
        question=f"Use the numbers {listed}, each exactly once, with +, - and * to make {target}.",
        start=start,
        terms=terms,
        formula=write_formula(start, terms),
        columns={"numbers": numbers, "target": target},
    )


def write_formula(start: int, terms: tuple[Term, ...]) -> str:
    """Return the operations as one formula, with brackets around a sum that is multiplied."""
    text, is_sum = str(start), False
    for operation, operand in terms:
        text = f"({text})" if operation == "*" and is_sum else text
        text, is_sum = f"{text} {operation} {operand}", operation != "*"
    return text


def draw_story(random: Random) -> Exercise:
    """Draw a word problem of one or two steps; amounts never become negative."""
    name, things = random.choice(NAMES), random.choice(THINGS)
    num_steps, terms = random.randint(1, 2), tuple[Term, ...]()
    start = random.randint(2, 12)
    sentences = [f"{name} has {start} {things}."]
    if random.random() < 0.4:
        each = random.randint(2, 9)
        sentences, terms = [f"{name} has {start} boxes with {each} {things} in each."], (("*", each),)
    while len(terms) < num_steps:
        owned = work(start, terms)[-1]
        gains = owned < 2 or random.random() < 0.5
        number = random.randint(2, 12) if gains else random.randint(1, owned - 1)
        sentences.append(f"{name} {random.choice(GAINS if gains else LOSSES).format(number)}.")
        terms = (*terms, ("+" if gains else "-", number))
    question = f"{' '.join(sentences)} How many {things} does {name} have now?"
    return Exercise(question=question, start=start, terms=terms)


KINDS: dict[str, Callable[[Random], Exercise]] = {
    "chains": draw_chain,
    "countdown": draw_countdown,
    "stories": draw_story,
}
