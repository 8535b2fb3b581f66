"""Python imports this at start-up where this folder is in PYTHONPATH.

So the guard holds in the test process, in the runner, in its workers and in the notebooks' kernels.
"""

from network_guard import install

install()
