"""The Tillstream agent of one till."""

from importlib.metadata import version

__version__ = version("tillstream-agent")
