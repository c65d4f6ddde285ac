"""What the arms of a verification are called on pages."""

from __future__ import annotations

ARMS = {
    "as_given": "as given",
    "cleaned": "cleaned",
    "random_removal": "random control",
    "removed": "removed",
    "relabelled": "relabelled",
    "mixed": "removed and relabelled",
}
