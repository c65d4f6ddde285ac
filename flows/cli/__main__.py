"""`python -m flows.cli`: the command where no script `winnow` is installed."""

from flows.cli import main

main()
