"""The benchmarks: each figure beside its yardstick, measured side by side in one run on one machine.

A yardstick is the shortest honest program that does the same with no guarantees (`plain.py`, `bare.py`). What is
compared runs in turns, so that whatever else the machine does meets both, and each ratio is that of one round. Where a
figure is about one process, it is that process's own CPU time, which other programs disturb least.
"""
