"""Checks of SFT and CPT stages before a model is loaded: files, columns, lengths, tokenizer."""

from __future__ import annotations

from dataclasses import replace

from fastrl.check.model import check_model, load_tokenizer
from fastrl.config import CptConfig, SftConfig, refuse
from fastrl.data.texts import read_texts
from fastrl.stages.sft import check_fits, read_sequences


def check_sft(config: SftConfig) -> None:
    """Check an SFT stage; reads and renders every row, so that a bad one is reported before the model loads.

    Raises:
        ValueError, FileNotFoundError: one line, `[section] field: expected ..., got ...`.
    """
    room = check_model("model", config.model)
    tokenizer = load_tokenizer("model", config.model, config.data)
    check_fits(read_sequences(config, tokenizer), room)


def check_cpt(config: CptConfig) -> None:
    """Check a CPT stage. Raises as check_sft."""
    room = check_model("model", config.model)
    if room is not None and config.seq_len > room:
        refuse("cpt", "seq_len", f"<= {room}, the model's context length", config.seq_len)
    if load_tokenizer("model", config.model).eos_token_id is None:
        refuse("model", "path", "a tokenizer with an end token, which ends a document", config.model.path)
    read_texts(config.data)
    if config.held_out is not None:
        read_texts(replace(config.data, path=config.held_out))
    elif config.held_out_every:
        refuse("cpt", "held_out_every", "0, since cpt.held_out is null", config.held_out_every)
