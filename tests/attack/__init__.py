"""Proof by attack: what no client of good will sends, sent to the real thing, and what became of it counted."""
