"""Finds backdoors: rows that carry a pattern and the label of one class. The front door is `backdoors.py`.

The search goes through the classes. For each class it collects suspect rows (`seeds`), reconstructs patterns that these
may share (`window`, `pixels`, `additive`, `tokens`, `column_values`, `column_ranges`), proves the patterns by pasting
and by content (`verify`), and decides which of them are reported (`alarm`).
"""
