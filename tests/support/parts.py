"""A pytest plugin that runs one part of the tests: `-p tests.support.parts`, with PENSTOCK_PART=1/3."""

import os

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every n-th test, from the part's number on."""
    part, parts = map(int, os.environ["PENSTOCK_PART"].split("/"))
    kept = items[part - 1 :: parts]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
