"""pyzmq: PUSH and PULL sockets over Unix-domain sockets; producers take the consumers in turn."""

from __future__ import annotations

import itertools
import pickle
import shutil
import tempfile
from multiprocessing.context import BaseContext
from typing import Any

import zmq

from . import Receiver, Rival, Sender, Shape


class _Sender:
    def __init__(self, endpoints: list[str]) -> None:
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
            socket.send(pickle.dumps(None))
            socket.close()
        zmq.Context.instance().term()  # waits until everything was sent


class _Receiver:
    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.bind(endpoint)

    def get(self) -> Any:
        return pickle.loads(self._socket.recv())


class _Sockets:
    def __init__(self, context: BaseContext, shape: Shape) -> None:
        producers, consumers = shape
        self.endings = producers
        self._folder = tempfile.mkdtemp(prefix="benchmark-")
        self._endpoints = [f"ipc://{self._folder}/{index}" for index in range(consumers)]

    def sender(self, index: int) -> Sender:
        return _Sender(self._endpoints)

    def receiver(self, index: int) -> Receiver:
        return _Receiver(self._endpoints[index])

    def end_one(self) -> None:
        pass  # the producers have said so

    def close(self) -> None:
        shutil.rmtree(self._folder)


RIVALS = [Rival("pyzmq", _Sockets)]
