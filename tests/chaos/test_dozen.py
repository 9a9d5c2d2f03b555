"""A dozen failures of mixed kinds in one run: the same losses, nothing lost, a receipt for each."""

import pytest

from tests.chaos.kinds import Kind
from tests.chaos.monkey import shuffled

# Ray Data, which Ray Train imports, warns of its own settings.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

DOZEN = {
    Kind.KILL_WORKER: 2,
    Kind.KILL_DURING_EVALUATION: 1,
    Kind.FREEZE_WORKER: 1,
    Kind.KILL_DURING_START: 1,
    Kind.KILL_DURING_SAVE: 2,
    Kind.KILL_DURING_RECOVERY: 1,
    Kind.TORN_CHECKPOINT: 2,
    Kind.STORAGE_REFUSED: 1,
    Kind.SLOW_RANK: 1,
}
SEED = 12


def test_a_dozen_failures_change_nothing_of_what_a_run_learns(strike, spec):
    strike(spec, shuffled(DOZEN, SEED), SEED)
