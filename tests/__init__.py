"""The tests. Set here, before torch and NumPy are loaded: idle threads sleep instead of spinning.

Tests compute a great deal that is small, and threads that spin in between take the cores from each
other, and from whatever else runs: the suite is many times slower on two cores that are shared.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # NumPy and SciPy: 2 to that many cycles
