"""A Prefect server as a process of its own: `python -P server_process.py PORT`, by `flows.server`.

It is run by its path and imports nothing of ours, so that a folder `flows/` or `pipeline/` in the working directory
can't stand in its way. It ends when its standard input ends: the process that started it holds the other end.
"""

import sys
import threading


def _serve(port: int) -> None:
    """Be the server, until standard input ends."""
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(create_app(ephemeral=True), host="127.0.0.1", port=port, log_level="error")
    )

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = server.force_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
