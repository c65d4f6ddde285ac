"""Backdoors: rows that carry a pattern and one class's label. Front door: `backdoors.py`.

For every class: rows that look poisoned (`seeds`), patterns that they may share (`window`, `pixels`, `additive`,
`tokens`, `column_values`, `column_ranges`), the proof by pasting and by content (`verify`), and what is reported
(`alarm`).
"""
