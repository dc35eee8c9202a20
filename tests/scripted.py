"""An engine that generates the tokens of a function's text; deterministic in its inputs."""

from __future__ import annotations

from dataclasses import replace

from checkpoints import byte_tokenizer

from fastrl.types import Completion


class ScriptedEngine:
    """write(question, prefix, sample, seed) -> text to add, or None for a continuation that never ends."""

    max_model_len = 4096

    def __init__(self, write):
        self.tokenizer = byte_tokenizer()
        self.write = write
        self.asked = []
        """(question, prefix, max_new_tokens, seed) of every branch that was sampled from."""

    def generate(self, prompts, sampling, *, seeds, n=1):
        return [
            self._samples(prompt, [], seed, n, sampling.max_new_tokens)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def continue_prefixes(self, trees, sampling):
        return [
            [
                self._samples(t.prompt_ids, b.token_ids, b.seed, b.num_samples, b.max_new_tokens)
                for b in t.branches
            ]
            for t in trees
        ]

    def _samples(self, prompt_ids, prefix_ids, seed, n, max_new_tokens):
        question = self.tokenizer.decode(prompt_ids, skip_special_tokens=True)
        prefix = self.tokenizer.decode(prefix_ids)
        if n:
            self.asked.append((question, prefix, max_new_tokens, seed))
        return [self._completion(self.write(question, prefix, j, seed), max_new_tokens) for j in range(n)]

    def _completion(self, text, max_new_tokens):
        unfinished = text is None
        text = "." * max_new_tokens if unfinished else text
        token_ids = self.tokenizer.encode(text, add_special_tokens=False)
        completion = Completion(token_ids=token_ids, logprobs=[], finish_reason="length", text=text)
        if unfinished:
            return completion
        token_ids = [*token_ids, self.tokenizer.eos_token_id]
        return replace(completion, token_ids=token_ids, finish_reason="stop")
