"""The programs under examples/ do the same by Python alone and by `penstock run`."""

import pytest

from tests.support.programs import METHODS, PENSTOCK, PLAIN, ROOT, run

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"

ONE_WAY = b"""\
kitchen: porridge for four is 200 g oats, 1000 g milk, 40 g honey
the kitchen closed with status 0
"""


def outcome(way: tuple[str, ...], name: str, *arguments: str) -> tuple[int, bytes, bytes]:
    done = run(way, [EXAMPLES / name, *arguments], folder=EXAMPLES)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("way", [PLAIN, PENSTOCK], ids=["plain", "penstock"])
@pytest.mark.parametrize("method", METHODS)
def test_one_way(method: str, way: tuple[str, ...]) -> None:
    assert outcome(way, "one_way.py", method) == (0, ONE_WAY, b"")


@pytest.mark.parametrize("method", METHODS)
def test_two_ways(method: str) -> None:
    plain = outcome(PLAIN, "two_ways.py", method)
    assert outcome(PENSTOCK, "two_ways.py", method) == plain
    status, output, errors = plain
    assert (status, errors) == (0, b"")
    lines = output.decode().splitlines()
    assert len(lines) == 11
    assert "steps from 27: 111 (27 is done)" in lines
    assert lines[-1] == "consumers ended with {0}"


def test_pickling() -> None:
    plain = outcome(PLAIN, "pickling.py")
    assert outcome(PENSTOCK, "pickling.py") == plain
    status, output, errors = plain
    assert (status, errors) == (0, b"")
    *protocols, circle = output.decode().splitlines()
    assert len(protocols) == 6
    assert all(line.endswith("bytes, equal, another object") for line in protocols)
    assert circle == "a circle is still one: True"


def test_first_program() -> None:
    expected = b"the first worker took [10, 20, 12]\nthe second worker says 42\ngiven out again: 1\n"
    assert outcome(PLAIN, "first_program.py") == (0, expected, b"")
