"""The archive: where ended runs go when they leave Redis, and how they are found there. See `docs/adr/0006`."""
