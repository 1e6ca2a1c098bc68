"""The kinds of attack, each a module with one `ATTACK`."""
