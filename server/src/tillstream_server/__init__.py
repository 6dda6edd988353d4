"""The Tillstream server."""

from importlib.metadata import version

__version__ = version("tillstream-server")
