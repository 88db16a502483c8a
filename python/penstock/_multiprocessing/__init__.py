"""All that exists because `multiprocessing` does."""
