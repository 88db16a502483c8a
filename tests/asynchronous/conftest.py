"""Runs each test with the fixture `run` under every event loop: of asyncio, of uvloop, and of trio."""

import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

LOOPS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "asyncio": ("asyncio", "asyncio", {}),
    "uvloop": ("uvloop", "asyncio", {"use_uvloop": True}),
    "trio": ("trio", "trio", {}),
}
if importlib.util.find_spec("uvloop"):
    import uvloop

    uvloop.new_event_loop().close()  # libuv opens a pipe for the process, which stays
SECONDS = 50  # that a program may take; the watchdog would not say which task waits


@pytest.fixture(
    params=[name if name == "asyncio" else pytest.param(name, marks=pytest.mark.slow) for name in LOOPS]
)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """A function that runs a coroutine function in a new loop, and returns what it returns."""
    anyio = pytest.importorskip("anyio")
    module, backend, options = LOOPS[request.param]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")

    def run(function: Callable[[], Awaitable[Any]]) -> Any:
        async def limited() -> Any:
            with anyio.fail_after(SECONDS):
                return await function()

        return anyio.run(limited, backend=backend, backend_options=options)

    return run
