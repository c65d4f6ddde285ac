"""Errors that a person is meant to read: one sentence with the place, one with what to do."""

from __future__ import annotations


class WinnowError(Exception):
    """Something went wrong while working; what was done before is kept (exit status 1)."""

    exit_status = 1

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"

    def __reduce__(self) -> tuple[type[WinnowError], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)


class InputError(WinnowError):
    """The usage, the config or the data are wrong (exit status 2)."""

    exit_status = 2
