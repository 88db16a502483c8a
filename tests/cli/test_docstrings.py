"""The examples in docstrings: every public name has one, and the examples of the binding run here.

`pytest --doctest-modules --pyargs penstock` runs only those of the package's Python files.
"""

import doctest
import inspect
import io
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import penstock
from penstock import _native, connections, context, errors

FINDER = doctest.DocTestFinder()
OF_THE_BINDING = {test.name: test for test in FINDER.find(_native) if test.examples}

# Classes that public functions return and that have no name in `penstock` itself.
RETURNED = [connections.Connection, context.ForkContext, context.SpawnContext, context.ForkServerContext]


@pytest.mark.parametrize("name", OF_THE_BINDING)
def test_example_of_the_binding(name: str) -> None:
    report = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    results = runner.run(OF_THE_BINDING[name], out=report.write)
    assert results.attempted == len(OF_THE_BINDING[name].examples)
    assert not results.failed, report.getvalue()


def public_names(module: ModuleType) -> Iterator[Any]:
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.ismodule(value):
            yield from public_names(value)
        elif callable(value):
            yield value


def public_methods(cls: type) -> Iterator[str]:
    """The full names of a class's methods, own and inherited, that Penstock defines."""
    for name in dir(cls):
        if name.startswith("_") or not callable(getattr(cls, name)):
            continue
        owner = next(base for base in cls.__mro__ if name in vars(base))
        if owner.__module__.partition(".")[0] == "penstock":
            yield f"{owner.__module__}.{owner.__qualname__}.{name}"


def test_everything_public_has_an_example() -> None:
    modules = [_native, penstock]
    for found in pkgutil.walk_packages(penstock.__path__, "penstock."):
        if not found.name.endswith("__main__") and "_bootstrap" not in found.name:
            modules.append(import_module(found.name))
    with_examples = {test.name for module in modules for test in FINDER.find(module) if test.examples}

    public = set()
    for value in [*public_names(penstock), *RETURNED]:
        public.add(f"{value.__module__}.{value.__qualname__}")
        if inspect.isclass(value):
            public.update(public_methods(value))
    assert f"{_native.__name__}.QueueBase.put_many" in public
    assert f"{errors.__name__}.QueueGoneError" in public
    assert sorted(public - with_examples) == []
