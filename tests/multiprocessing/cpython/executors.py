"""The interpreter's own tests of process pool executors whose workers crash, if it comes with them.

Children can import their modules: a package from Python 3.12 on, one file before.
"""

import importlib
import unittest

_MODULES = ("test.test_concurrent_futures.test_deadlock", "test.test_concurrent_futures")
_CLASSES = {
    "fork": "ProcessPoolForkExecutorDeadlockTest",
    "spawn": "ProcessPoolSpawnExecutorDeadlockTest",
    "forkserver": "ProcessPoolForkserverExecutorDeadlockTest",
}


def load(method: str) -> unittest.TestSuite | None:
    """The tests of the executors whose workers are started by `method`, or None."""
    for name in _MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not (error.name and name.startswith(error.name)):
                raise
        else:
            return unittest.defaultTestLoader.loadTestsFromTestCase(getattr(module, _CLASSES[method]))
    return None
