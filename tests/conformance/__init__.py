"""The promises of a queue, tested for each class or store that implements it."""
