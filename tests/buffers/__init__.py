"""Memory: large payloads, limits, and leaks."""
