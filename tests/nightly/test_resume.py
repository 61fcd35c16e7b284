"""Ten kills at random moments, in one run and in runs of their own."""

import pytest
from support import killing

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return killing.finish(tmp_path_factory.mktemp("whole"))[1]


def test_one_run_killed_ten_times(tmp_path, expected):
    left = []
    for moment in killing.moments(10, seed=0):
        left += killing.kill_at(tmp_path, *moment)[1]
    assert left, "no kill came while a file was written"
    killing.assert_equal_runs(killing.finish(tmp_path)[1], expected)
    # What was half written is cleared away.
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("seed", range(10))
def test_a_run_killed_once(tmp_path, expected, seed):
    word, count, delay = list(killing.moments(2, seed + 1))[seed % 2]
    # Anywhere in the run: 88 steps, 17 checkpoints written by two syncs each.
    count = 1 + (count * 7919 + seed * 13) % (80 if word == "step" else 30)
    killing.kill_at(tmp_path, word, count, delay)
    killing.assert_equal_runs(killing.finish(tmp_path)[1], expected)
