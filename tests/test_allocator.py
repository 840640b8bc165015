import subprocess
import sys

import pytest

# Frees and takes 8 MiB again and again, as a training step does with its activations.
COUNT = """
import resource, sys
import numpy as np
from train_lm.machine.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    raise SystemExit("refused")
np.ones(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    held = [np.ones(1 << 17) for _ in range(40)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux'")
def test_memory_that_was_freed_is_used_again_without_page_faults() -> None:
    assert page_faults("kept") < page_faults("returned") / 4
