"""Whether generated programs can run here: the tests that need it are skipped elsewhere, and say why."""

import pytest

from fastrl.grading.programs.runner import sandbox_missing

MISSING = sandbox_missing()
needs_sandbox = pytest.mark.skipif(MISSING is not None, reason=f"no sandbox for programs: {MISSING}")
