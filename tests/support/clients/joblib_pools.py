"""joblib: a pool whose queues are pipes with locks of joblib's, and arrays that all processes map."""

import tempfile
from typing import Any

import joblib
import numpy as np
from joblib.pool import MemmappingPool

from penstock.connections import Connection
from tests.support.clients import is_the_default, main, raised_by

WORKERS = 2
LARGE = 200_000  # numbers


def square(number: int) -> int:
    return number * number


def invert(number: int) -> float:
    return 1 / number


def kind_and_sum(array: Any) -> tuple[str, float]:
    return type(array).__name__, float(array.sum())


def scale(array: Any, factor: int) -> Any:
    return array * factor


def fill(array: Any, place: int) -> None:
    array[place] = place


def opened(context: Any, folder: str) -> Any:
    pool = MemmappingPool(WORKERS, temp_folder=folder, max_nbytes=100_000, context=context)
    for queue in (pool._inqueue, pool._outqueue):
        assert isinstance(queue._reader, Connection)
        assert isinstance(queue._writer, Connection)
    return pool


def memmapping_pool(context: Any) -> None:
    large = np.arange(LARGE, dtype=float)
    with tempfile.TemporaryDirectory() as folder:
        pool = opened(context, folder)
        assert pool.map(square, range(100)) == [number * number for number in range(100)]
        assert pool.map(kind_and_sum, [large[:10], large]) == [("ndarray", 45.0), ("memmap", large.sum())]
        assert isinstance(raised_by(pool.map, invert, [1, 0]), ZeroDivisionError)
        scaled = pool.starmap(scale, [(large, factor) for factor in range(4)])
        assert all((array == large * factor).all() for factor, array in enumerate(scaled))
        written = np.memmap(f"{folder}/written", dtype=np.int64, shape=100, mode="w+")
        pool.starmap(fill, [(written, place) for place in range(100)])
        assert written.tolist() == list(range(100))
        del written
        pool.terminate()
        pool.join()


def parallel(context: Any) -> None:
    large = np.arange(LARGE, dtype=float)
    squares = [number * number for number in range(100)]
    # joblib takes a context in place of a backend's name.
    backend: Any = "multiprocessing" if is_the_default(context) else context
    with tempfile.TemporaryDirectory() as folder:
        do = joblib.Parallel(WORKERS, backend=backend, temp_folder=folder, max_nbytes=100_000)
        with do:
            assert do(joblib.delayed(square)(number) for number in range(100)) == squares
            found = do(joblib.delayed(kind_and_sum)(large) for _ in range(4))
            assert found == [("memmap", large.sum())] * 4
            scaled = do(joblib.delayed(scale)(large, factor) for factor in range(3))
            assert all((array == large * factor).all() for factor, array in enumerate(scaled))
        assert isinstance(raised_by(do, map(joblib.delayed(invert), [1, 0])), ZeroDivisionError)


def default_of_a_block(context: Any) -> None:
    if is_the_default(context):
        with joblib.parallel_backend("multiprocessing", n_jobs=WORKERS):
            done = joblib.Parallel()(joblib.delayed(square)(number) for number in range(100))
        assert done == [number * number for number in range(100)]


PROGRAMS = {program.__name__: program for program in (memmapping_pool, parallel, default_of_a_block)}

if __name__ == "__main__":
    main(PROGRAMS)
