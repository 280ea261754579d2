import subprocess
import sys

_SETTLE = """
import gc
from ingest.http import memory
kept = [object() for _ in range(10)]
memory.settle()
assert gc.isenabled()
assert gc.get_freeze_count() > 1000
assert gc.get_threshold()[0] == 10_000
class Cycle: pass
import weakref
cycle = Cycle()
cycle.itself = cycle
gone = weakref.ref(cycle)
del cycle
more = [[] for _ in range(20_000)]
assert gone() is None, "cycles are still collected"
"""


def test_what_stays_for_good_is_left_out_and_cycles_are_still_collected():
    # A process of its own: what is frozen stays so.
    subprocess.run([sys.executable, "-c", _SETTLE], check=True, timeout=60)
