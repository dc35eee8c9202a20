from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def fixed_model(tmp_path_factory):
    """The tiny model of intervention_world."""
    from intervention_world import learned_model

    return learned_model(tmp_path_factory.mktemp("fixed"))
