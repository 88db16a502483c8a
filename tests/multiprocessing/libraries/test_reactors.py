"""Connections and queues in the reactors of Twisted, which read only what is reported as readable."""

import subprocess
import sys

import pytest

# A child sends, and ends. The reactor must read each message, and the end.
PROGRAM = """
import os, sys
import multiprocessing, penstock
from twisted.internet import epollreactor, pollreactor, selectreactor
{"epoll": epollreactor, "poll": pollreactor, "select": selectreactor}[sys.argv[1]].install()
from twisted.internet import reactor

class Reader:
    def __init__(self, source, take):
        self.source, self.take, self.taken = source, take, []
        reactor.addReader(self)

    def fileno(self):
        return self.source.fileno()

    def logPrefix(self):
        return "reader"

    def doRead(self):
        try:
            self.taken.append(self.take())
        except EOFError:
            self.end("EOF")

    def connectionLost(self, reason):
        self.end("lost")

    def end(self, how):
        self.taken.append(how)
        reactor.removeReader(self)
        reactor.callLater(0, reactor.stop)

class ReaderAndWriter(Reader):
    sent = 0

    def doWrite(self):
        self.source.send_bytes(bytes(300_000))
        self.sent += 1
        if self.sent == 20:
            reactor.removeWriter(self)

what = sys.argv[2]
here, there = penstock.Pipe()
queue = penstock.Queue()
pid = os.fork()
if pid == 0:
    here.close()
    if what == "writes":
        for _ in range(20):
            there.recv_bytes()
    for number in range(20):
        there.send(number)
        queue.put(number)
    os._exit(0)
there.close()
reader = (ReaderAndWriter if what == "writes" else Reader)(here, here.recv)
if what == "writes":
    reactor.addWriter(reader)
if what == "queue":
    reader_of_queue = Reader(queue, queue.get_nowait)
reactor.callLater(30, reactor.stop)
reactor.run()
os.waitpid(pid, 0)
if what == "queue":
    # The reactor may end before the last item is read, and says so.
    print(reader_of_queue.taken[:-1] == [*range(20)][: len(reader_of_queue.taken) - 1], end=" ")
print(reader.taken == [*range(20), "EOF"] or reader.taken)
"""


@pytest.mark.parametrize("reactor", ["epoll", "poll", "select"])
@pytest.mark.parametrize("what", ["reads", "writes", "queue"])
def test_a_reactor_reads_all_messages_and_the_end(reactor: str, what: str) -> None:
    command = [sys.executable, "-c", PROGRAM, reactor, what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    assert done.stdout == ("True True\n" if what == "queue" else "True\n")
