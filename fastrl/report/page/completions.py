"""Table of an RL run's completions, with the blocks that show a selected row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastrl.report.page.blocks import (
    Block,
    Texts,
    numbers,
    outcome_of,
    run,
    runs,
    table,
    text,
    utf16_length,
)
from fastrl.report.page.curves import reward_weights

Row = Mapping[str, Any]
COLUMNS = (
    ("step", "Step", "count"),
    ("group", "Group", "count"),
    ("outcome", "Answer", "outcome"),
    ("effect", "Effect", "outcome"),
    ("reward", "Reward", "number"),
    ("transfer", "Transfer", "number"),
    ("uplift", "Uplift", "number"),
    ("advantage", "Adv.", "number"),
    ("length", "Tokens", "count"),
    ("about", "Prompt", "text"),
)
FACETS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("outcome", "Answer", {"right": "r", "wrong": "w"}),
    ("effect", "Effect", {"transfers": "t", "no transfer": "n", "helps": "t", "no help": "n"}),
    ("step", "Step", {}),
    ("group", "Group", {}),
)
# columns with a dedicated block; all others are listed in "Other columns"
PLACED = (
    "prompt", "completion", "completion_ids", "rollout_logprobs", "ref_logprobs", "finish_reason", "group",
    "rewards", "reward", "advantage", "verdict", "cuts", "trace", "executor_answer", "executor_verdict",
    "executor_repeats", "executor_alone", "s_with", "s_base", "quality", "leak", "rubric",
)  # fmt: skip


def completion_table(folder: Path, config: Mapping[str, Any], max_rows: int) -> dict[str, Any] | None:
    """Build the table of completions/step-*.jsonl; None if there are none.

    Returns: {"columns", "facets", "texts", "rows": [{column: value, "blocks": [...]}], "total": number of
        completions on disk, "note": what the page leaves out}. Each prompt is stored once, in texts.
    """
    files = sorted((folder / "completions").glob("step-*.jsonl"))
    counts = [sum(1 for line in file.open("rb") if line.strip()) for file in files]
    if not sum(counts):
        return None
    chosen = chosen_steps(counts, max_rows)
    texts = Texts()
    weights = reward_weights(config)
    rows = [
        shown_row(int(files[i].stem.removeprefix("step-")), json.loads(line), weights, texts)
        for i in chosen
        for line in files[i].read_text(encoding="utf-8").split("\n")
        if line.strip()
    ]
    used = [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]
    names = {key for key, _, _ in used}
    note = ""
    if len(chosen) < len(files):
        note = (
            f"{len(rows):,} of {sum(counts):,} completions, from {len(chosen)} of {len(files)} logged "
            "steps, evenly spaced; --max_completions 0 shows all"
        )
    return {
        "name": "Completions",
        "columns": [{"key": key, "label": label, "kind": kind} for key, label, kind in used],
        "facets": [{"key": key, "label": label, "keys": keys} for key, label, keys in FACETS if key in names],
        "texts": texts.texts,
        "rows": rows,
        "total": sum(counts),
        "note": note,
    }


def chosen_steps(counts: Sequence[int], max_rows: int) -> list[int]:
    """Choose files for the page: all, or as many as fit, evenly spaced from the first to the last.

    Args:
        counts: rows of each file.
        max_rows: 0: no limit. The last file is taken even if it is larger.
    """
    last = len(counts) - 1
    for number in range(len(counts), 1, -1):
        chosen = [round(i * last / (number - 1)) for i in range(number)]
        if not max_rows or sum(counts[i] for i in chosen) <= max_rows:
            return chosen
    return [last]


def shown_row(step: int, row: Row, weights: Mapping[str, float], texts: Texts) -> dict[str, Any]:
    verdict = row.get("verdict", row.get("executor_verdict"))
    shown = {
        "step": step,
        "group": row["group"],
        "outcome": outcome_of(verdict),
        "effect": effect(row),
        "reward": row["reward"],
        "transfer": row["rewards"].get("transfer"),
        "advantage": row["advantage"],
        "length": len(row["completion_ids"]),
        "about": texts.place(row["prompt"]),
    }
    if "s_with" in row:
        shown["uplift"] = row["s_with"] - row["s_base"]
    return {name: value for name, value in shown.items() if value is not None} | {
        "blocks": blocks(row, weights, shown["about"])
    }


def effect(row: Row) -> str | None:
    """Return the completion's effect on another model; None if no other model read it.

    For a receiver: all, some or none of its continuations are correct. For an executor: it is correct more
    often than without the trace, or not.
    """
    share = row["rewards"].get("transfer")
    if share is not None:
        return "transfers" if share == 1 else "no transfer" if share == 0 else "partly"
    if "s_with" in row:
        return "helps" if row["s_with"] > row["s_base"] else "no help"
    return None


def blocks(row: Row, weights: Mapping[str, float], prompt: int) -> list[Block]:
    """Return the blocks that show a completion, in order."""
    cuts = sorted(row.get("cuts", ()), key=lambda cut: cut["position"])
    marks = [
        {"at": at, "label": f"cut {k}"}
        for k, cut in enumerate(cuts, 1)
        if (at := cut_place(row["completion"], cut)) is not None
    ]
    length = len(row["completion_ids"])
    about = f"{length} tokens, finish reason: {row['finish_reason']}"
    if row["rollout_logprobs"]:
        about += f", mean log-probability {math.fsum(row['rollout_logprobs']) / length:.3f} nats"
    found: list[Block] = [{"kind": "text", "title": "Prompt", "ref": prompt}]
    found.append(text("Completion", row["completion"], note=about, marks=marks))
    found += [cut_block(k, cut, length) for k, cut in enumerate(cuts, 1)]
    if "executor_answer" in row:
        found += executor_blocks(row)
    found.append(reward_block(row, weights))
    if "rubric" in row:
        found.append(table("Rubric", ["dimension", "level"], numbers(row["rubric"])))
    others = {name: value for name, value in row.items() if name not in PLACED}
    if others:
        found.append(table("Other columns", ["column", "value"], numbers(others)))
    return found


def cut_place(completion: str, cut: Row) -> int | None:
    """Return the cut's position in the completion in UTF-16 units; None if the row lacks it, or the decoded
    prefix differs from the completion's text."""
    prefix = completion[: cut.get("prefix_chars", -1)]
    if "prefix_chars" not in cut or not prefix.endswith(cut["prefix_end"]):
        return None
    return utf16_length(prefix)


def cut_block(k: int, cut: Row, length: int) -> Block:
    title = f"Cut {k}: {cut['position']} of {length} tokens are kept"
    note = f"τ = {cut['tau']:.3f}; the answer is {'in' if cut['has_answer'] else 'not in'} the prefix"
    if "answer_logprob" in cut:
        chance = math.exp(cut["answer_logprob"])
        note += f"; the receiver gives the gold answer probability {chance:.4f}"
    found = [run_of(continuation) for continuation in cut.get("continuations", ())]
    return runs(title, found, note=note, lead=cut["prefix_end"][-120:])


def run_of(logged: Row) -> dict[str, Any]:
    return run(logged["text"], logged["verdict"], f"finish reason: {logged['finish_reason']}")


def executor_blocks(row: Row) -> list[Block]:
    primary = run(row["executor_answer"], row["executor_verdict"], "primary run")
    repeats = [run_of(logged) for logged in row.get("executor_repeats", ())]
    without = [run_of(logged) for logged in row.get("executor_alone", ())]
    parts = {
        "success rate with the trace": row["s_with"],
        "success rate without the trace": row["s_base"],
        "uplift": row["s_with"] - row["s_base"],
        "quality (reward model)": row["quality"],
        "answer leaks into the trace": row["leak"],
    }
    found: list[Block] = [
        text("Trace that the executor reads", row["trace"]),
        runs("Executor with the trace", [primary, *repeats]),
    ]
    if without:
        found.append(runs("Executor without a trace", without))
    return [*found, table("Uplift", ["part", "value"], numbers(parts))]


def reward_block(row: Row, weights: Mapping[str, float]) -> Block:
    lines: list[list[Any]] = []
    for name, value in row["rewards"].items():
        weight = weights.get(name)
        product = None if value is None or weight is None else weight * value
        lines.append([name, value, weight, product])
    lines.append(["total", None, None, row["reward"]])
    lines.append(["advantage", None, None, row["advantage"]])
    return table("Rewards", ["component", "value", "weight", "product"], lines)
