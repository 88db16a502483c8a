"""The pool of worker processes, a `concurrent.futures.Executor` on the package's own queues."""
