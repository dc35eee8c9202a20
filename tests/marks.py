"""Which files' tests stay out of `make check` as a whole, and why; a single test has a decorator instead.

A path under tests/ is a file or a folder.
"""

from __future__ import annotations

MARKS: dict[str, tuple[str, ...]] = {
    # what make long runs: single tests of half a minute, of which a shorter one stays in make test
    "long": (),
    "gpu": ("kernels/test_gpu_runtime.py", "engine/tree/test_engine_on_a_gpu.py"),
    # Triton kernels without a GPU: up to 33 s of CPU time a test
    "interpreter": (
        "kernels/test_triton_group_advantage.py",
        "kernels/test_triton_prefix_attention.py",
        "kernels/test_triton_rows.py",
        "kernels/test_triton_tokens.py",
    ),
    # torchrun, vLLM, a browser, the sandbox's processes, a compiler, commands of the documents
    "process": (
        "distributed",
        "docs/test_doc_blocks.py",
        "engine/vllm",
        "grading/programs",
        "grading/test_pool.py",
        "grading/test_pairs.py",
        "grading/test_whole_response.py",
        "integrations/test_lm_eval.py",
        "kernels/test_sharded_head.py",
        "kernels/test_triton_compiles.py",
        "report/test_page_browser.py",
        "smol/test_real_model.py",  # half a gigabyte of weights
        "runtime/test_watchdog.py",
        "test_build.py",
        "test_packaging.py",
        "tools/doctor",
        "tools/sweep/test_sweep_runs.py",
        "training/faults",
    ),
    # a model learns something, or a tiny world is made
    "trains": (
        "integrations/test_trl_enable.py",
        "integrations/test_trl_sampling.py",
        "integrations/test_trl_trainer.py",
        "stages",
        "tiny/reproduce/test_reproduce_runs.py",
        "tiny/test_demo.py",
        "tiny/tracelift/test_lift.py",
        "tiny/tracelift/test_lift_assess.py",
        "tiny/world/test_world.py",
        "tools/compare/test_broken_training.py",
        "training/test_ahead.py",
        "training/test_deterministic.py",
    ),
    # seconds a test, for another reason; single tests are decorated
    "slow": (
        "bench/test_gpu_phases.py",
        "config/test_sections.py",
        "report/test_serve.py",
        "tools/plan/test_plan_pipeline.py",
        "tools/sweep/test_sweep.py",
    ),
}
