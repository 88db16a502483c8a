"""Pickling, on which every queue relies: an object becomes a string of bytes, and that an object again.

The new object is equal to the old one, and it is another one. So it is in every protocol.
"""

import pickle


class Route:
    """A list of stops, and an earlier route that it replaces."""

    def __init__(self, stops, replaces=None):
        self.stops = stops
        self.replaces = replaces

    def __eq__(self, other):
        return isinstance(other, Route) and vars(self) == vars(other)

    __hash__ = None  # its stops may change


def main():
    old = Route(["Ladybank", "Springfield"])
    route = Route([*old.stops, "Cupar", ("Leuchars", 4.5)], replaces=old)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        string = pickle.dumps(route, protocol)
        copy = pickle.loads(string)
        print(
            f"protocol {protocol}: {len(string)} bytes,",
            "equal," if copy == route else "different,",
            "the same object" if copy is route else "another object",
        )

    # What is inside is copied once, however often it is referred to, and may refer to itself.
    circle = Route([])
    circle.stops += [circle, circle]
    copy = pickle.loads(pickle.dumps(circle))
    print("a circle is still one:", copy.stops[0] is copy and copy.stops[1] is copy)


if __name__ == "__main__":
    main()
