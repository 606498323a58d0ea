"""`python -m medalign.cli` is `medalign`."""

from medalign.cli.app import main

main()
