"""The presets that take long to build."""

import pytest
from models.test_presets import LARGE, check

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize("name", sorted(LARGE))
def test_counts(name):
    check(name)
