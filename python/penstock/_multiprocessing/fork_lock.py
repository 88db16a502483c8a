"""A lock for what the first thread to come does once in a process."""

import os
from threading import RLock

# The forking thread holds it across the fork. Otherwise the child could inherit it as held by a thread that
# does not exist there.
lock = RLock()
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
