"""Storms: programs put and take through a queue while their processes are hit by faults, round after round.

    python -m tests.crash.storms   Penstock beside its rivals, as `make test-storm` does

A round: `storm.py` keeps a queue and a `crew.py` of real processes for some dozens of rounds. `round.py`
gives the orders, hits a member with a fault of `faults.py`, calls the roll or shuts the queue down, and
closes the `books.py`. The processes run `worker.py`. They write what they have done into the `ledger.py`,
memory that outlives them.
Each rival is a file in `contestants/`.
"""
