"""What a queue promises, whichever class or store implements it."""
