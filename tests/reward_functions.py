"""A user's own reward, imported by its dotted path."""


def vowels(completions, **kwargs) -> list[float]:
    """Share of vowels in the text."""
    texts = [
        completion[0]["content"] if isinstance(completion, list) else completion for completion in completions
    ]
    return [sum(c in "aeiou" for c in text.lower()) / max(1, len(text)) for text in texts]


def odd(completion_ids, **kwargs) -> list[float]:
    """Share of odd token ids."""
    return [sum(token % 2 for token in ids) / max(1, len(ids)) for ids in completion_ids]
