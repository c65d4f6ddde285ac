"""Methods of attribution that a script has registered, made known to the workers of its audit."""

from __future__ import annotations

from distributed import Worker, WorkerPlugin

from pipeline.attribution.methods import Method, register_method, registered_methods


class KnownMethods(WorkerPlugin):
    """Registers methods on every worker, also on one that is started later."""

    name = "winnow methods"

    def __init__(self, methods: dict[str, Method]):
        self.methods = methods

    def setup(self, worker: Worker) -> None:
        del worker
        for name, method in self.methods.items():
            register_method(name, method)


def known_methods() -> KnownMethods | None:
    """None where nothing was registered."""
    found = registered_methods()
    return KnownMethods(found) if found else None
