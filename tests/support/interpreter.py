"""What kind of interpreter the tests are run by."""

import sys

FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
