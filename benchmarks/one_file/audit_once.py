"""One audit in a process of its own: python -m benchmarks.one_file.audit_once CONFIG RUN [KEY=VALUE ...]."""

from __future__ import annotations

import sys

import yaml

import pipeline
from pipeline.config import load_config


def main() -> None:
    config, run, *settings = sys.argv[1:]
    changes = {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in settings)}
    pipeline.audit(load_config(config, changes), run)


if __name__ == "__main__":
    main()
