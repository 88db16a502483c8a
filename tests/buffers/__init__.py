"""Memory: large payloads, limits, and that nothing is kept."""
