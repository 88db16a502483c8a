"""One way: the parent sends an object of its own class, and a worker process calls a method of it.

usage: one_way.py [start method]
"""

import multiprocessing
import sys


class Recipe:
    """Something that knows how to describe itself."""

    def __init__(self, name, grams):
        self.name = name
        self.grams = grams

    def scaled(self, portions):
        """Return the ingredients for so many portions."""
        return ", ".join(f"{amount * portions} g {what}" for what, amount in self.grams.items())


def cook(orders):
    recipe = orders.get()
    print(f"{multiprocessing.current_process().name}: {recipe.name} for four is {recipe.scaled(4)}")


def main():
    if len(sys.argv) > 1:
        multiprocessing.set_start_method(sys.argv[1])
    orders = multiprocessing.Queue()
    kitchen = multiprocessing.Process(target=cook, args=(orders,), name="kitchen")
    kitchen.start()
    orders.put(Recipe("porridge", {"oats": 50, "milk": 250, "honey": 10}))
    orders.close()
    orders.join_thread()
    kitchen.join()
    print(f"the kitchen closed with status {kitchen.exitcode}")


if __name__ == "__main__":
    main()
