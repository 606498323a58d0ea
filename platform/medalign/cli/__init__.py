"""The command line: a thin shell over the library's functions. Its top level imports no framework."""

from medalign.cli.app import main

__all__ = ["main"]
