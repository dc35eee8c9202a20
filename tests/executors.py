"""Executors with answers computed from their prompts, and verifiers that run no program."""

from __future__ import annotations

from checkpoints import byte_tokenizer

from fastrl.config import ExecutorConfig
from fastrl.methods.tracelift.executor import Executor
from fastrl.methods.tracelift.verifiers import MathVerifier
from fastrl.types import Completion

EOS = 1
PLAIN = {"system": "", "prompt": "{question}\n", "prompt_with_trace": "{question}\n{trace}", "begin": ""}


class Reader:
    """write(what it reads, sample) -> its answer; one that ends in … ran out of tokens."""

    def __init__(self, write, tokenizer=None, max_model_len=4096):
        self.tokenizer = tokenizer or byte_tokenizer()
        self.write, self.max_model_len = write, max_model_len
        self.calls = []
        """(trees, sampling) of every call."""

    def continue_prefixes(self, trees, sampling):
        self.calls.append((trees, sampling))
        return [[self._samples(tree.prompt_ids, b) for b in tree.branches] for tree in trees]

    def reads(self, call=-1):
        """[(text, num_samples, seed)] of every branch of a call that was sampled from."""
        return [
            (self.tokenizer.decode([*tree.prompt_ids, *b.token_ids]), b.num_samples, b.seed)
            for tree in self.calls[call][0]
            for b in tree.branches
            if b.num_samples
        ]

    def _samples(self, prompt_ids, branch):
        read = self.tokenizer.decode([*prompt_ids, *branch.token_ids])
        return [self._completion(self.write(read, j)) for j in range(branch.num_samples)]

    def _completion(self, text):
        finished = not text.endswith("…")
        ids = self.tokenizer.encode(text, add_special_tokens=False) + [EOS] * finished
        return Completion(
            token_ids=ids, logprobs=[], finish_reason="stop" if finished else "length", text=text
        )


def math_executor(write, grader, **options) -> Executor:
    return Executor(Reader(write), ExecutorConfig(**{**PLAIN, **options}), MathVerifier(grader))
