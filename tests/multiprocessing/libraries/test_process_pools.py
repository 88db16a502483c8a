"""Libraries that run their work in a `ProcessPoolExecutor`, under `penstock run`."""

import subprocess
import sys
from pathlib import Path

import pytest

TQDM = """
import os, signal
from concurrent.futures import ProcessPoolExecutor
from tqdm.contrib.concurrent import process_map

def square(number):
    return number * number

def divide(number):
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return number

if __name__ == "__main__":
    assert process_map(square, range(40), max_workers=2, chunksize=3) == [n * n for n in range(40)]
    try:
        process_map(divide, range(40), max_workers=2, chunksize=1)
    except Exception as error:
        print(type(error).__name__)
"""
DASK = """
import dask, os
from concurrent.futures import ProcessPoolExecutor

@dask.delayed
def square(number):
    return number * number, os.getpid()

if __name__ == "__main__":
    pairs = dask.compute(*map(square, range(20)), scheduler="processes", num_workers=2)
    assert [square for square, _ in pairs] == [n * n for n in range(20)]
    assert os.getpid() not in {pid for _, pid in pairs}
    with ProcessPoolExecutor(2) as pool, dask.config.set(pool=pool):
        pairs = dask.compute(*map(square, range(20)), scheduler="processes")
        assert [square for square, _ in pairs] == [n * n for n in range(20)]
        assert pool.submit(abs, -1).result() == 1
        print(type(pool.__dict__["_penstock_pool"]).__name__)
"""
JOBLIB = """
import os, signal
from concurrent.futures import ProcessPoolExecutor
from joblib import Parallel, delayed, parallel_config, register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

class Executor(AutoBatchingMixin, ParallelBackendBase):
    supports_retrieve_callback = True

    def effective_n_jobs(self, n_jobs):
        return n_jobs

    def configure(self, n_jobs=1, parallel=None, **options):
        self.parallel = parallel
        self.executor = ProcessPoolExecutor(n_jobs)
        return n_jobs

    def submit(self, batch, callback=None):
        future = self.executor.submit(batch)
        future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, future):
        return future.result()

    def terminate(self):
        self.executor.shutdown(cancel_futures=True)

    def abort_everything(self, ensure_ready=True):
        self.terminate()
        if ensure_ready:
            self.configure(self.parallel.n_jobs, self.parallel)

def square(number):
    return number * number

def kill(number):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    register_parallel_backend("executor", Executor)
    with parallel_config("executor", n_jobs=2):
        assert Parallel()(delayed(square)(n) for n in range(200)) == [n * n for n in range(200)]
        try:
            Parallel()(delayed(kill)(n) for n in range(2))
        except Exception as error:
            print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("program", "printed"),
    [(TQDM, "WorkerDied"), (DASK, "WorkerPool"), (JOBLIB, "WorkerDied")],
    ids=["tqdm", "dask", "joblib"],
)
def test_a_library(program: str, printed: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(program)
    command = [sys.executable, "-m", "penstock", "run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout.splitlines()) == (0, [printed]), done.stderr
