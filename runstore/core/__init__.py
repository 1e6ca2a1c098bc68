"""The rules: pure, without a clock, Redis, logging or async."""
