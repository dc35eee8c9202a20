"""The report page without a browser: complete content, and nothing in it can run."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
import yaml
from jsonl import write_jsonl
from run_folders import completion_row, rl_config, rl_line, rl_run, write_stage

from fastrl.cli.main import main
from fastrl.methods.rltr.transfer import _record
from fastrl.methods.tracelift.executor import Answer
from fastrl.methods.tracelift.uplift import UpliftRecord, logged_columns
from fastrl.methods.tracelift.verifiers import Checked
from fastrl.report.html import digest
from fastrl.report.page import write_page
from fastrl.report.page.attempts import marked_steps
from fastrl.report.page.blocks import Texts, utf16_length
from fastrl.report.page.completions import blocks, chosen_steps, completion_table, cut_place, effect
from fastrl.report.page.curves import curves, tiles, unit
from fastrl.report.page.folder import report_data
from fastrl.report.page.write import ASSETS, SCRIPTS, safe_json
from fastrl.rewards.cuts import Cut
from fastrl.rewards.receiver import Continuation

NASTY = '</script><script>hacked=1</script><!--<img src=x onerror="hacked=1">{{title}}&amp;\u2028\U0001f600'


class Elements(HTMLParser):
    """Names and attributes of a page's elements, and the texts of its scripts, as a parser sees them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.scripts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.in_script = tag == "script"

    def handle_endtag(self, tag):
        self.in_script = False

    def handle_data(self, data):
        if getattr(self, "in_script", False):
            self.scripts.append(data)


def data_of(page):
    return json.loads(Elements(page).scripts[0])


def test_every_metric_and_completion_is_on_the_page(tmp_path):
    run = rl_run(tmp_path / "run", num_steps=3, groups=2, size=4)
    written = write_page(run)
    assert written.path == run / "report.html" and written.notes == []
    page = written.path.read_text()
    assert written.num_bytes == len(page.encode())
    [stage] = data_of(page)["stages"]
    assert (stage["name"], stage["kind"]) == ("run", "rl")
    assert stage["curves"]["steps"] == [1, 2, 3]
    logged = {name for name in rl_line(1) if name not in ("step", "kl")}  # kl was never known
    assert set(stage["curves"]["series"]) == logged
    assert stage["curves"]["series"]["completions/mean_length"] == [21.0, 22.0, 23.0]
    table = stage["table"]
    assert [row["step"] for row in table["rows"]] == [1] * 8 + [2] * 8 + [3] * 8
    assert table["total"] == 24 and table["texts"] == ["question 0", "question 1"]
    row = table["rows"][3]  # number 3: wrong, its continuation right
    assert {name: value for name, value in row.items() if name != "blocks"} == {
        "step": 1, "group": 0, "outcome": "wrong", "effect": "transfers", "reward": 0.5, "transfer": 1.0,
        "advantage": 0.0, "length": 13, "about": 0,
    }  # fmt: skip
    assert dict(stage["config"]) == {
        "stage": "rl", "reward.functions": ["answer", "transfer"], "reward.weights": [1.0, 0.5],
        "run.seed": 3,
    }  # fmt: skip
    assert dict(stage["environment"]) == {"commit": "abc", "packages.torch": "2.13.0"}


def test_what_is_shown_of_a_completion():
    row = completion_row(3, 0, ref_logprobs=[0.0], gold="6", corrupted=True)
    prompt, completion, cut, rewards, others = blocks(row, {"answer": 1.0, "transfer": 0.5}, 7)
    assert prompt == {"kind": "text", "title": "Prompt", "ref": 7}
    assert completion["text"] == "1+2=3\n3+3=6\n\\boxed{6}" and completion["marks"] == [
        {"at": 6, "label": "cut 1"}
    ]
    assert completion["note"] == "13 tokens, finish reason: stop, mean log-probability -0.500 nats"
    assert cut["title"] == "Cut 1: 3 of 13 tokens are kept" and cut["lead"] == "1+2=3\n"
    assert cut["runs"] == [{"text": "3+3=?", "outcome": "right", "note": "finish reason: stop"}]
    assert rewards["rows"] == [
        ["answer", 0.0, 1.0, 0.0], ["transfer", 1.0, 0.5, 0.5],
        ["total", None, None, 0.5], ["advantage", None, None, 0.0],
    ]  # fmt: skip
    assert others["rows"] == [["gold", "6"], ["corrupted", True]]


def test_cuts_stand_in_their_order_and_as_a_browser_counts():
    text = "\U0001f600a\U0001f600b"
    cut = {"tau": 0.5, "has_answer": True, "continuations": []}
    late = cut | {"position": 4, "prefix_chars": 3, "prefix_end": "\U0001f600a\U0001f600"}
    early = cut | {"position": 2, "prefix_chars": 2, "prefix_end": "\U0001f600a"}
    row = completion_row(0, 0) | {"completion": text, "cuts": [late, early]}
    _, completion, first, second, _ = blocks(row, {}, 0)
    assert completion["marks"] == [{"at": 3, "label": "cut 1"}, {"at": 5, "label": "cut 2"}]
    assert [first["title"][:5], second["title"][:5]] == ["Cut 1", "Cut 2"] and "2 of 10" in first["title"]
    assert utf16_length(text) == 6
    # A row that does not say, or that was decoded otherwise, has no mark; its cut is told all the same.
    assert cut_place(text, {"prefix_end": "x"}) is None
    assert cut_place(text, {"prefix_chars": 2, "prefix_end": "zz"}) is None
    assert cut_place(text, {"prefix_chars": 0, "prefix_end": ""}) == 0


def test_teacher_mode_shows_the_probability():
    cut = {
        "tau": 0.5, "position": 3, "prefix_chars": 6, "prefix_end": "1+2=3\n", "has_answer": False,
        "answer_logprob": math.log(0.25),
    }  # fmt: skip
    _, _, shown, _ = blocks(completion_row(0, 0) | {"cuts": [cut]}, {}, 0)
    assert shown["runs"] == [] and "gold answer probability 0.2500" in shown["note"]


def test_uplift_rows_show_runs_with_and_without_the_trace(tmp_path):
    ran = {"text": "out", "verdict": "wrong_answer", "finish_reason": "stop"}
    logged = {
        "trace": "plan", "executor_answer": "print(1)", "executor_verdict": "passed", "s_with": 0.75,
        "s_base": 0.25, "quality": 0.9, "leak": False, "rubric": {"plan_quality": 3},
        "executor_repeats": [ran | {"verdict": "passed"}], "executor_alone": [ran],
    }  # fmt: skip
    row = completion_row(1, 0) | logged
    for name in ("cuts", "verdict"):
        del row[name]
    row["rewards"] = {"uplift": 0.5}
    found = {block["title"]: block for block in blocks(row, {}, 0)}
    assert found["Trace that the executor reads"]["text"] == "plan"
    assert [run["outcome"] for run in found["Executor with the trace"]["runs"]] == ["right", "right"]
    assert [run["outcome"] for run in found["Executor without a trace"]["runs"]] == ["wrong"]
    assert ["uplift", 0.5] in found["Uplift"]["rows"] and ["quality (reward model)", 0.9] in found["Uplift"][
        "rows"
    ]
    assert found["Rubric"]["rows"] == [["plan_quality", 3]]
    write_stage(tmp_path, rl_config(("uplift",), (1.0,)), [])
    write_jsonl(tmp_path / "completions" / "step-000002.jsonl", [row])
    [shown] = completion_table(tmp_path, rl_config(("uplift",), (1.0,)), 0)["rows"]
    assert (shown["step"], shown["outcome"], shown["effect"], shown["uplift"]) == (2, "right", "helps", 0.5)


def test_rewards_log_what_the_page_reads():
    text = "\U0001f600 1+2=3\n3+4=7"
    cut = Cut(tau=0.5, position=3, text=text[:8], receiver_ids=[], has_answer=False)
    wrote = Continuation(text="3+4=8", finish_reason="length", verdict=None)
    row = completion_row(0, 0) | {"completion": text, "cuts": [_record(cut, [wrote])]}
    _, completion, shown, _ = blocks(row, {}, 0)
    assert completion["marks"] == [{"at": 9, "label": "cut 1"}] and shown["lead"] == text[:8]
    assert shown["runs"] == [{"text": "3+4=8", "outcome": "unfinished", "note": "finish reason: length"}]

    def ran(text, label):
        checked = Checked(
            score=float(label == "passed"), success=label == "passed", label=label, pass_rate=0.0
        )
        return Answer(text=text, finish_reason="stop", checked=checked)

    answers = [ran("a", "passed"), ran("b", "wrong_answer"), ran("c", "passed")]
    record = UpliftRecord(
        trace="plan", answers=answers, baseline=[ran("d", "timeout")], quality=0.5, leak=False
    )
    logged = {name: values[0] for name, values in logged_columns([record]).items()}
    found = {block["title"]: block for block in blocks(completion_row(0, 0) | logged, {}, 0)}
    ran_with = [(run["text"], run["outcome"]) for run in found["Executor with the trace"]["runs"]]
    assert ran_with == [("a", "right"), ("b", "wrong"), ("c", "right")]
    alone = [(run["text"], run["outcome"]) for run in found["Executor without a trace"]["runs"]]
    assert alone == [("d", "timeout")] and "Other columns" not in found


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"rewards": {"transfer": 1.0}}, "transfers"),
        ({"rewards": {"transfer": 0.5}}, "partly"),
        ({"rewards": {"transfer": 0.0}}, "no transfer"),
        ({"rewards": {"uplift": 0.0}, "s_with": 0.5, "s_base": 0.5}, "no help"),
        ({"rewards": {"answer": 1.0}}, None),
    ],
)
def test_the_effect_on_another_model(row, word):
    assert effect(row) == word


def test_curves_have_units_phases_and_weights():
    lines = [{"step": 0, "eval/avg@2": 0.5}, *(rl_line(step) for step in (1, 2))]
    found = curves(lines, rl_config())
    assert found["panels"][:3] == ["eval/avg@2", "rewards/answer/mean", "rewards/transfer/mean"]
    assert found["series"]["reward"] == [None, 0.1, 0.2]
    assert found["phases"] == ["time/rollout_s", "time/update_s"] and found["inside"] == [
        "time/policy_decode_s"
    ]
    assert found["components"] == [
        {"metric": "rewards/answer/mean", "weight": 1.0}, {"metric": "rewards/transfer/mean", "weight": 0.5},
    ]  # fmt: skip
    assert {name: unit(name) for name in ("entropy", "time/eval_s", "completions/mean_length", "num_tokens",
            "eval/avg@16", "completions/clipped_ratio", "engine/policy/requests", "grad_norm")} == {
        "entropy": "nats", "time/eval_s": "s", "completions/mean_length": "tokens", "num_tokens": "tokens",
        "eval/avg@16": "share", "completions/clipped_ratio": "share", "engine/policy/requests": "requests",
        "grad_norm": "",
    }  # fmt: skip
    told = {tile["name"]: tile for tile in tiles(lines)}
    assert (
        told["steps"]["value"] == 2 and told["time in steps"]["value"] == 6.0
    )  # the engine's time not twice
    assert (told["reward"]["first"], told["reward"]["value"]) == (0.1, 0.2)
    assert told["tokens of rollouts"]["value"] == 200
    assert curves([], {})["series"] == {} and tiles([]) == []


@pytest.mark.parametrize(
    ("counts", "most", "chosen"),
    [
        ([4] * 5, 0, [0, 1, 2, 3, 4]),
        ([4] * 5, 20, [0, 1, 2, 3, 4]),
        ([4] * 5, 19, [0, 1, 3, 4]),  # 4 / 3 and 8 / 3 rounded
        ([4] * 5, 12, [0, 2, 4]),
        ([4] * 5, 11, [0, 4]),
        ([4] * 5, 3, [4]),  # one whole step, whatever it holds
        ([9, 1, 1], 10, [0, 2]),
    ],
)
def test_too_many_completions_leave_out_whole_steps_evenly(counts, most, chosen):
    assert chosen_steps(counts, most) == chosen


def test_left_out_completions_are_reported(tmp_path, capsys):
    run = rl_run(tmp_path / "run", num_steps=5, groups=1, size=4)
    assert (
        main(["report", str(run), "--max_completions", "12", "--out", str(tmp_path / "sub" / "page.html")])
        == 0
    )
    out = capsys.readouterr().out
    assert "12 of 20 completions, from 3 of 5 logged steps" in out and "sub/page.html (" in out
    [stage] = data_of((tmp_path / "sub" / "page.html").read_text())["stages"]
    assert {row["step"] for row in stage["table"]["rows"]} == {1, 3, 5}
    assert stage["table"]["note"] in out


def test_nothing_in_the_data_can_end_its_element(tmp_path):
    run = rl_run(
        tmp_path / NASTY.replace("/", "_"),
        num_steps=1,
        groups=1,
        size=2,
        completion=NASTY + "\ud800",
        extra={NASTY: NASTY},
    )
    page = write_page(run).path.read_text()
    assert page.isascii()
    parsed = Elements(page)
    assert [tag for tag, _ in parsed.elements].count("script") == 2 and len(parsed.scripts) == 2
    assert not any(tag == "img" for tag, _ in parsed.elements)
    assert "<" not in parsed.scripts[0]
    [stage] = data_of(page)["stages"]
    assert stage["table"]["rows"][0]["blocks"][1]["text"] == NASTY + "\ud800"
    assert stage["name"] == NASTY.replace("/", "_")
    policy = next(attrs["content"] for tag, attrs in parsed.elements if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy
    assert f"'{digest(parsed.scripts[1])}'" in policy
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    assert f"style-src '{digest(style)}'" in policy


def test_json_that_may_stand_in_a_page():
    assert (
        safe_json({"a": [math.nan, math.inf, 1.5, True], "b": "<é"})
        == '{"a":[null,null,1.5,true],"b":"\\u003c\\u00e9"}'
    )


def test_the_assets_ask_for_nothing_and_make_no_markup_of_text():
    sources = {path.name: path.read_text(encoding="ascii") for path in sorted(ASSETS.iterdir())}
    assert set(sources) == {*SCRIPTS, "follow.js", "page.css", "body.html"}
    for name, source in sources.items():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|Function\(", source
        ), name
        addresses = set(re.findall(r"https?://[^\"' )]+|url\(|@import|fetch\(|XMLHttp", source))
        # of a served page alone, whose policy holds it to its own server
        allowed = "fetch(" if name == "follow.js" else "http://www.w3.org/2000/svg"
        assert addresses <= {allowed}, name
        assert len(source.splitlines()) <= 500


def test_a_pipeline_has_its_stages_and_those_that_wait(tmp_path):
    stages = {"run": {"dir": "x"}, "stage": "pipeline", "first": {"stage": "sft"}, "then": {"stage": "rl"},
              "last": {"stage": "rl"}}  # fmt: skip
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(stages, sort_keys=False))
    write_stage(tmp_path / "first", {"stage": "sft"}, [{"step": 1, "loss": 2.0, "num_tokens": 5.0}])
    (tmp_path / "first" / "counts.json").write_text('{"kept": {"a": 1, "b": 2}}')
    rl_run(tmp_path / "then")
    data = report_data(tmp_path, 0)
    assert [(stage["name"], stage["kind"]) for stage in data["stages"]] == [("first", "sft"), ("then", "rl")]
    assert data["waiting"] == ["last"]
    assert data["stages"][0]["table"] is None
    assert data["stages"][0]["tables"] == [{"title": "counts", "rows": [("kept.a", 1), ("kept.b", 2)]}]
    assert data["stages"][0]["curves"]["panels"] == ["loss"]


def intervene_run(folder):
    write_stage(folder, {"stage": "intervene"}, [])
    write_jsonl(folder / "attempts.jsonl", [
        {"problem": 0, "question": "q", "solution": "6", "attempts": [["a", "b", "c"]]},
    ])  # fmt: skip
    common = {"problem": 0, "attempt": 0, "success_prefix": 0.0, "check": "looked"}
    write_jsonl(folder / "interventions.jsonl", [
        common | {"sample": 0, "outcome": "selected", "location": 2, "content": "B", "success": 1.0,
                  "success_original": 0.25, "gain": 0.75},
        common | {"sample": 1, "outcome": "no_tag", "location": None, "content": None, "success": None,
                  "success_original": None, "gain": None},
    ])  # fmt: skip
    return folder


def test_interventions_stand_where_the_first_error_is(tmp_path):
    [stage] = report_data(intervene_run(tmp_path / "fix"), 0)["stages"]
    chosen, unread = stage["table"]["rows"]
    assert (chosen["outcome"], chosen["location"], chosen["gain"]) == ("selected", 2, 0.75)
    assert chosen["blocks"][1]["steps"] == [
        {"number": 1, "part": "kept", "text": "a"}, {"number": 2, "part": "error", "text": "b"},
        {"number": 2, "part": "new", "text": "B"}, {"number": 3, "part": "after", "text": "c"},
    ]  # fmt: skip
    assert unread["outcome"] == "no tag" and "location" not in unread
    assert {step["part"] for step in marked_steps(["a", "b"], None, None)} == {"kept"}
    (tmp_path / "fix" / "interventions.jsonl").write_text("")
    assert report_data(tmp_path / "fix", 0)["stages"][0]["table"] is None


def test_failed_attempts_of_a_hard_set(tmp_path):
    write_stage(tmp_path, {"stage": "hard_set"}, [])
    attempt = {"sample": 5, "text": "1+1=3", "verdict": "wrong", "num_tokens": 6}
    write_jsonl(tmp_path / "hard.jsonl", [
        {"question": "q", "solution": "2", "reference": "1+1=2", "num_correct": 0,
         "attempts": [attempt, attempt]},
    ])  # fmt: skip
    [stage] = report_data(tmp_path, 0)["stages"]
    assert [(row["problem"], row["sample"], row["outcome"]) for row in stage["table"]["rows"]] == [
        (0, 5, "wrong")
    ] * 2
    assert stage["table"]["rows"][0]["blocks"][2]["text"] == "1+1=2"


def test_a_shared_text_stands_once():
    texts = Texts()
    assert [texts.place(each) for each in ("a", "b", "a")] == [0, 1, 0] and texts.texts == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "[report] RUN: expected it before any flag, got nothing"),
        (["--out", "x"], "[report] RUN: expected it before any flag, got '--out' in its place"),
        (["EMPTY"], "[report] RUN: expected a folder with config.yaml or pipeline.yaml, got"),
        (["RUN", "--max_completions", "-1"], "[report] max_completions: expected >= 0, got -1"),
    ],
)
def test_a_users_error_is_one_line(arguments, message, tmp_path, capsys):
    names = {"EMPTY": str(tmp_path), "RUN": str(rl_run(tmp_path / "run"))}
    assert main(["report", *[names.get(each, each) for each in arguments]]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fastrl: {message}") and error.count("\n") == 1
    assert not (tmp_path / "run" / "report.html").exists()
