"""Programs as users start them: penstock's commands, the demo, the examples, the benchmarks."""
