"""build_engine: the tokenizer has the chat template that the data or the model's own options say."""

import torch

from fastrl.config import CheckpointConfig, DataConfig, EngineConfig, PromptedConfig
from fastrl.engine.build import build_engine

CPU = torch.device("cpu")


def test_templates_of_engines(checkpoints):
    path, none = str(checkpoints["llama"]), DataConfig(chat_template="none")
    asked = (
        (CheckpointConfig(path=path), none, False),
        (PromptedConfig(path=path, chat_template="none"), None, False),
        (PromptedConfig(path=path), None, True),
    )
    for model, data, has_one in asked:
        engine = build_engine(model, EngineConfig(), CPU, data)
        assert (engine.tokenizer.chat_template is not None) == has_one
