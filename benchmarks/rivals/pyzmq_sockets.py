"""pyzmq: PUSH and PULL sockets over Unix-domain sockets; producers take the consumers in turn."""

from __future__ import annotations

import itertools
import pickle
import shutil
import tempfile
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import zmq

from .interface import Receiver, Rival, Sender, Shape


@dataclass
class _Ending:
    """The last message of a producer."""

    producer: int


class _Sender:
    def __init__(self, endpoints: list[str], producer: int, received: Any) -> None:
        self._producer = producer
        self._received = received
        self._sockets = []
        for endpoint in endpoints:
            socket = zmq.Context.instance().socket(zmq.PUSH)
            socket.connect(endpoint)
            self._sockets.append(socket)
        self._turns = itertools.cycle(self._sockets)

    def put(self, item: Any) -> None:
        next(self._turns).send(pickle.dumps(item, pickle.HIGHEST_PROTOCOL))

    def finish(self) -> None:
        for socket in self._sockets:
            socket.send(pickle.dumps(_Ending(self._producer)))
        # Messages that were not received yet are lost when their sender ends.
        for _ in self._sockets:
            self._received.acquire()


class _Receiver:
    def __init__(self, endpoint: str, received: list[Any]) -> None:
        self._received = received
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.bind(endpoint)

    def get(self) -> Any:
        item = pickle.loads(self._socket.recv())
        if isinstance(item, _Ending):
            self._received[item.producer].release()
            return None
        return item


class _Sockets:
    def __init__(self, context: BaseContext, shape: Shape) -> None:
        producers, consumers = shape
        self.endings = producers
        self._received = [context.Semaphore(0) for _ in range(producers)]
        self._folder = tempfile.mkdtemp(prefix="benchmark-")
        self._endpoints = [f"ipc://{self._folder}/{index}" for index in range(consumers)]

    def sender(self, index: int) -> Sender:
        return _Sender(self._endpoints, index, self._received[index])

    def receiver(self, index: int) -> Receiver:
        return _Receiver(self._endpoints[index], self._received)

    def end_one(self) -> None:
        pass  # each producer has sent its endings

    def close(self) -> None:
        shutil.rmtree(self._folder)


RIVALS = [Rival("pyzmq", _Sockets)]
