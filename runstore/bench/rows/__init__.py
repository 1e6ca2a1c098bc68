"""The rows of the table, one module each: `TITLE`, and `measure` which plays on a stage."""
