"""Two ways: tasks go to worker processes, and results come back.

usage: two_ways.py [start method]

The tasks are objects that can be called: each counts the steps in which the Collatz sequence of a number
reaches 1.
"""

import multiprocessing
import sys

NUMBERS = [27, 97, 871, 6171, 77031, 837799, 1, 2, 3, 4]


class Steps:
    def __init__(self, number):
        self.number = number

    def __call__(self):
        steps, value = 0, self.number
        while value != 1:
            value = value // 2 if value % 2 == 0 else 3 * value + 1
            steps += 1
        return self.number, steps

    def __str__(self):
        return f"steps from {self.number}"


class Consumer(multiprocessing.Process):
    def __init__(self, tasks, results):
        super().__init__()
        self.tasks = tasks
        self.results = results

    def run(self):
        while True:
            task = self.tasks.get()
            if task is None:  # nothing more to do
                self.tasks.task_done()
                return
            self.results.put((str(task), task()))
            self.tasks.task_done()


def main():
    if len(sys.argv) > 1:
        multiprocessing.set_start_method(sys.argv[1])
    tasks = multiprocessing.JoinableQueue()
    results = multiprocessing.Queue()

    consumers = [Consumer(tasks, results) for _ in range(2 * multiprocessing.cpu_count())]
    for consumer in consumers:
        consumer.start()

    for number in NUMBERS:
        tasks.put(Steps(number))
    for _ in consumers:
        tasks.put(None)
    tasks.join()

    # They come in any order.
    for task, (number, steps) in sorted(results.get() for _ in NUMBERS):
        print(f"{task}: {steps} ({number} is done)")

    for consumer in consumers:
        consumer.join()
    print("consumers ended with", {consumer.exitcode for consumer in consumers})


if __name__ == "__main__":
    main()
