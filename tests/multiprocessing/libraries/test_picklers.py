"""The ways in which programs make `multiprocessing` use another pickler."""

import subprocess
import sys

import pytest

DILL = """
import dill, multiprocessing.queues, multiprocessing.reduction
dill.Pickler.dumps, dill.Pickler.loads = dill.dumps, dill.loads
multiprocessing.reduction.ForkingPickler = dill.Pickler
multiprocessing.reduction.dump = dill.dump
"""
DILL_LATE = DILL + "multiprocessing.queues._ForkingPickler = dill.Pickler\n"
CLOUDPICKLE = """
import cloudpickle, io, pickle
from multiprocessing.reduction import AbstractReducer

class Pickler(cloudpickle.Pickler):
    @classmethod
    def dumps(cls, obj, protocol=None):
        file = io.BytesIO()
        cls(file, protocol).dump(obj)
        return file.getbuffer()
    loads = staticmethod(pickle.loads)
    register = staticmethod(lambda *arguments: None)

class Reducer(AbstractReducer):
    ForkingPickler = Pickler

import penstock
penstock.get_context("fork").reducer = Reducer()
"""
USE = """
import penstock

def main():
    number = 1
    for q in (penstock.Queue(), penstock.JoinableQueue(), penstock.SimpleQueue()):
        q.put_many([lambda x: x + number, 5])
        function, argument = q.get_many()
        q.put(function(argument))
        print(q.get())
    here, there = penstock.Pipe()
    here.send(lambda x: x + number)
    print(there.recv()(7))

main()
"""


@pytest.mark.parametrize("way", [DILL, DILL_LATE, CLOUDPICKLE], ids=["dill", "dill, late", "cloudpickle"])
def test_functions_that_have_no_name_arrive(way: str) -> None:
    done = subprocess.run([sys.executable, "-c", way + USE], capture_output=True, text=True, timeout=50)
    assert (done.stdout, done.stderr) == ("6\n6\n6\n8\n", "")
