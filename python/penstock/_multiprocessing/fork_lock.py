"""A lock for what is done once in a process, by whichever of its threads comes first."""

import os
from threading import RLock

# A thread that forks holds it from before until after, so that no child inherits it in the hands of a thread
# that it does not have.
lock = RLock()
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
