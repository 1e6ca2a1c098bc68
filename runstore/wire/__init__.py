"""The bytes: entries, records, messages and key names; pure, like the core."""
