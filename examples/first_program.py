"""The first worker is killed in the middle of its task; the second one gets the task again, and does it."""

import time

import penstock


def idle(tasks, taken):
    taken.put(tasks.get())
    time.sleep(1000)  # never says that the task is done


def work(tasks, results):
    numbers = tasks.get()
    results.put(sum(numbers))
    tasks.task_done()


def main():
    context = penstock.get_context()
    tasks, taken, results = context.JoinableQueue(), context.Queue(), context.Queue()
    tasks.put([10, 20, 12])

    first = context.Process(target=idle, args=(tasks, taken))
    first.start()
    print("the first worker took", taken.get())
    first.kill()

    second = context.Process(target=work, args=(tasks, results))
    second.start()
    tasks.join()  # multiprocessing's would wait for ever
    print("the second worker says", results.get())
    print("given out again:", tasks.statistics().redeliveries)

    first.join()
    second.join()


if __name__ == "__main__":
    main()
