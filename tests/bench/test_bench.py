"""Providers of the benches compute the same loss, and the benches' own measurements are right."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from places import ROOT

from bench import memory, plot
from bench.competitors import HEAD, LOGITS, loading, trl_kernels
from bench.gates import exact, gate_case, gates
from bench.inputs import IDLE_SHARE, VARIANTS, CaseSpec, logprobs_of, packed_batch, trained_inputs
from bench.launches import first_calls_ms, launches
from bench.providers import Provider, gradients, head_providers, our_loss
from bench.ready_logits import build, exact_gradient, gradient
from bench.sidebyside import Bench

SMALL = {"tokens": 48, "width": 32, "vocab": 257, "num_sequences": 4}
RUNNABLE = [each for each in HEAD if not each.needs_cuda]
SCORING = [each for each in RUNNABLE if each.name != "liger fused GRPO"]  # which gives a loss, not log-probs


def parameters(competitors):
    """Name them; torch.compile runs a C++ compiler for seconds."""
    return [
        pytest.param(each, id=each.name, marks=[pytest.mark.long] if "compile" in each.name else [])
        for each in competitors
    ]


def runnable(name: str, op: str = "linear_grpo_loss", dtype: torch.dtype = torch.float32) -> Provider:
    provider = head_providers(op, "cpu", dtype)[name]
    if provider.reason is not None:
        pytest.skip(f"{name}: {provider.reason}")
    return provider


@pytest.mark.parametrize("mask", ["dense", "realistic"])
@pytest.mark.parametrize("competitor", parameters(RUNNABLE))
def test_a_competitor_computes_the_loss(competitor, mask):
    provider = runnable(competitor.name)
    case = CaseSpec(**SMALL, distribution="trained", mask=mask).build()
    found = gates(provider, case, exact(case, "linear_grpo_loss"))
    assert set(found["failed"]) <= {"batch_invariant"}, found
    assert found["dx_rel"] < 1e-5 and found["dw_rel"] < 1e-5


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["torch eager", "trl chunked 8192", "liger fused GRPO"])
def test_every_variant_is_the_same_loss(name, variant):
    provider = runnable(name)
    case = CaseSpec(**SMALL, mask="realistic", variant=variant).build()
    found = gates(provider, case, exact(case, "linear_grpo_loss"))
    assert found["dx_rel"] < 2e-5 and found["dw_rel"] < 2e-5, found
    reference = our_loss("reference", case).loss
    assert torch.allclose(provider.run(case).loss.float(), reference.float(), atol=1e-5)


@pytest.mark.parametrize("competitor", parameters(SCORING))
def test_a_competitor_computes_logprobs_in_bf16(competitor):
    provider = runnable(competitor.name, "linear_logprob", torch.bfloat16)
    case = CaseSpec(**SMALL, dtype="bfloat16", distribution="trained").build()
    found = gates(provider, case, exact(case, "linear_logprob"))
    assert found["logp_max"] < 0.25 and found["dw_rel"] < 0.05, found


@pytest.mark.parametrize("competitor", parameters(LOGITS))
def test_losses_of_ready_logits(competitor):
    if (reason := competitor.reason("cpu")) is not None:
        pytest.skip(f"{competitor.name}: {reason}")
    case = build(4, 12, 101, torch.float32, "cpu")
    found = gradient(competitor.function(), case)[0].double()
    wanted = exact_gradient(case)
    assert (found - wanted).norm() < 1e-5 * wanted.norm()


def test_competitors_that_need_a_gpu_give_a_reason():
    reasons = {each.name: each.reason("cpu") for each in HEAD if each.needs_cuda}
    assert reasons and set(reasons.values()) == {"needs a CUDA device"}


def test_gates_catch_a_wrong_provider():
    case = CaseSpec(**SMALL, distribution="trained").build()
    right = runnable("torch eager")

    def wrong(case):
        outcome = right.run(case)
        return type(outcome)(outcome.loss * 1.1, outcome.logprobs + torch.rand(()))

    found = gates(Provider(name="wrong", run=wrong), case, exact(case, "linear_grpo_loss"))
    assert {"dx_rel", "dw_rel", "repeatable"} <= set(found["failed"])
    assert found["batch_invariant"] is False


@pytest.mark.parametrize(("width", "vocab"), [(64, 1000), (128, 4096)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_inputs_have_the_stated_log_probs(width, vocab, dtype):
    torch.manual_seed(0)
    hidden, weight, ids = trained_inputs(2000, width, vocab, dtype)
    logits = hidden.detach().float() @ weight.detach().float().T
    logprobs = logprobs_of(hidden.detach().float(), weight.detach().float(), ids)
    assert -0.36 < logprobs.mean() < -0.24
    assert abs((logits.argmax(-1) == ids).float().mean() - 0.85) < 0.17
    assert (logprobs.exp() > 0.999999).float().mean() > 0.05


def test_masks():
    dense, idle, still = (packed_batch(4096, 8, m) for m in ("dense", "realistic", "zero-advantage"))
    assert dense["loss_mask"].all() and (dense["advantages"] != 0).all()
    assert abs(1 - idle["loss_mask"].float().mean().item() - IDLE_SHARE) < 0.01
    assert not idle["loss_mask"].view(8, 512)[:, :128].any()
    assert (still["advantages"] == 0).float().mean() == 0.5
    with pytest.raises(ValueError, match="mask"):
        packed_batch(16, 2, "half")


def test_a_fresh_process_makes_the_same_case():
    spec = CaseSpec(**SMALL, distribution="trained", variant="dapo-tis")
    first, second = spec.build(), spec.build()
    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.batch["rollout_logprobs"], second.batch["rollout_logprobs"])
    assert gate_case(spec, 10).hidden.shape[0] == 8


@pytest.mark.process
def test_memory_of_a_known_allocation():
    """200 MB held at once on the way to a gradient of 40 MB, measured in a process of its own."""
    script = (
        "import torch\n"
        "from bench.memory import extra_bytes_cpu\n"
        "def call(size=50_000_000):\n"
        "    held = torch.ones(size)\n"
        "    return (held[::5].clone(),)\n"
        "call(1000)\n"
        "print(extra_bytes_cpu(call))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    # what is returned is not extra
    assert abs(int(done.stdout) - 200e6) < 4e6


@pytest.mark.process
def test_memory_of_a_provider_in_its_own_process():
    spec = CaseSpec(tokens=256, width=32, vocab=20011)
    found, problem = memory.fresh_process_bytes("linear_grpo_loss", "torch eager", spec, None, 1)
    logits = 256 * 20011 * 4
    assert found is not None, problem
    assert 2 * logits < found < 6 * logits
    assert memory.fresh_process_bytes("linear_grpo_loss", "nobody", spec, None, 1)[0] is None


def test_launches_and_first_calls():
    few = launches(lambda: torch.ones(4).sum(), "cpu")["aten_ops"]
    many = launches(lambda: [torch.ones(4).sum() for _ in range(10)], "cpu")["aten_ops"]
    assert few == 2 and many == 20
    spec = CaseSpec(**SMALL)
    seen = []
    times = first_calls_ms(lambda case: seen.append(len(case.ids)), spec)
    assert len(times) == 8 and len(set(seen)) == 8 and max(seen) < spec.tokens


@pytest.fixture
def clean_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(loading, "FOLDERS", [])


def trl_file() -> Path:
    try:
        return loading.find_file("trl/kernels/chunked_logprob.py")
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("form", ["wheel", "folder", "file"])
def test_a_competitor_from_a_folder(form, tmp_path, clean_path):
    source = trl_file()
    if form == "wheel":
        with zipfile.ZipFile(tmp_path / "trl-0.0.1-py3-none-any.whl", "w") as archive:
            archive.write(source, "trl/kernels/chunked_logprob.py")
    else:
        folder = tmp_path if form == "file" else tmp_path / "trl/kernels"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder)
    sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "trl").is_dir()]
    with pytest.raises(ImportError, match="chunked_logprob"):
        loading.find_file("trl/kernels/chunked_logprob.py")
    loading.add_wheels(tmp_path)
    assert loading.find_file("trl/kernels/chunked_logprob.py") != source
    case = CaseSpec(**SMALL).build()
    logprobs, entropy = trl_kernels.chunked(64)(case.hidden, case.weight, case.ids, 1.0)
    assert torch.allclose(logprobs, logprobs_of(case.hidden, case.weight, case.ids), atol=1e-4)
    assert entropy.shape == logprobs.shape
    assert torch.autograd.grad(logprobs.sum(), case.weight)[0].shape == case.weight.shape


def test_a_table_keeps_every_row(capsys):
    class Given:
        only, wheels, rounds, gate_rows, no_memory, first_calls = (
            "eager,max-autotune",
            None,
            1,
            16,
            True,
            False,
        )

    rows = Bench("linear_grpo_loss", Given(), "cpu").table(CaseSpec(**SMALL))
    by_name = {row["provider"]: row for row in rows}
    assert by_name["torch eager"]["median_ms"] > 0 and "gates" in by_name["torch eager"]
    assert by_name["torch.compile max-autotune"]["reason"] == "needs a CUDA device"
    printed = capsys.readouterr().out
    assert all(name in printed for name in by_name) and "not run: needs a CUDA device" in printed
    json.dumps(rows)


def test_a_failing_provider_keeps_its_row(monkeypatch, capsys):
    def fail(_):
        raise RuntimeError("no kernel image\nand more")

    failing = {"broken": Provider(name="broken", run=fail)}
    monkeypatch.setattr("bench.sidebyside.head_providers", lambda *_: failing)

    class Given:
        only, wheels, rounds, gate_rows, no_memory, first_calls = None, None, 1, 0, True, False

    (row,) = Bench("linear_grpo_loss", Given(), "cpu").table(CaseSpec(**SMALL))
    assert row["reason"] == "failed: RuntimeError: no kernel image"
    assert "no kernel image" in capsys.readouterr().out


def test_the_plot(tmp_path):
    pytest.importorskip("matplotlib")
    spec = {"tokens": 8, "width": 4, "vocab": 16, "dtype": "float32", "distribution": "random"}
    spec |= {"mask": "dense", "variant": "dapo"}
    rows = [
        {"provider": name, "pass": "train", "spec": spec, "median_ms": 2.0, "memory": {"extra_mib": 3.0}}
        for name in ("ours", "theirs")
    ]
    rows.append({"provider": "absent", "pass": "train", "spec": spec, "reason": "needs a CUDA device"})
    report = {"op": "x", "gpu": None, "machine": "m", "cpu": "c", "torch": "t", "commit": "abc"}
    plot.draw(report | {"results": rows}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000


@pytest.mark.process
def test_benches_import_without_the_competitors():
    blocked = "trl datasets liger_kernel verl cut_cross_entropy quack fla matplotlib pandas"
    script = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked.split()}))\n"
        "import bench.bench_linear_grpo_loss, bench.bench_linear_logprob, bench.bench_grpo_loss, bench.plot"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_gradients_reach_both_inputs():
    case = CaseSpec(**SMALL).build()
    _, (hidden, weight) = gradients(runnable("torch eager"), case)
    assert hidden.shape == case.hidden.shape and weight.shape == case.weight.shape
