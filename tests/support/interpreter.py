"""The kind of interpreter that runs the tests."""

import sys

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
