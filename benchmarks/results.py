"""The figures of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import delays, event_loops, growth, recovery, sizes, threads, workers
from .measured import Measured, Target


@dataclass
class Results:
    """The figures of a run, by stage."""

    missing: dict[str, str]
    throughput: dict[str, dict[str, Measured]] = field(default_factory=dict)
    round_trips: dict[str, dict[str, dict[str, Measured]]] = field(default_factory=dict)
    resources: dict[str, dict[str, Measured]] = field(default_factory=dict)
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    backlog: growth.Costs = field(default_factory=dict)
    participants: growth.Costs = field(default_factory=dict)
    threads: threads.Results = field(default_factory=dict)
    event_loops: event_loops.Results = field(default_factory=dict)
    delays: delays.Results = field(default_factory=dict)
    sizes: sizes.Results = field(default_factory=sizes.Results)
    recovery: recovery.Figures = field(default_factory=dict)
    workers: workers.Results = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
