"""Registers on the workers the methods of attribution that a script has registered."""

from __future__ import annotations

from distributed import Worker, WorkerPlugin

from pipeline.attribution.methods import Method, register_method, registered_methods


class KnownMethods(WorkerPlugin):
    """A Dask plugin that registers methods on every worker, also on workers that start later."""

    name = "winnow methods"

    def __init__(self, methods: dict[str, Method]):
        self.methods = methods

    def setup(self, worker: Worker) -> None:
        del worker
        for name, method in self.methods.items():
            register_method(name, method)


def known_methods() -> KnownMethods | None:
    """The plugin for the registered methods; None if there are none."""
    found = registered_methods()
    return KnownMethods(found) if found else None
