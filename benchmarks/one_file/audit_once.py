"""One audit in a process of its own: python -m benchmarks.one_file.audit_once CONFIG RUN [KEY=VALUE ...]."""

from __future__ import annotations

import sys

import pipeline
from pipeline.config import load_config
from pipeline.config.yaml_text import read_yaml


def main() -> None:
    config, run, *settings = sys.argv[1:]
    changes = {key: read_yaml(value) for key, _, value in (each.partition("=") for each in settings)}
    pipeline.audit(load_config(config, changes), run)


if __name__ == "__main__":
    main()
