"""A Kaggle of our own for the tests: the real `kaggle` client talks to it, by environment alone.

`protocol.py` speaks HTTP · `api.py` answers each call · `runs.py` executes pushed kernels and scores what
they write · `numbers.py`, `desk.py` a competition and a project that enters it. It knows what the client's
source and Kaggle's documentation say, and no more: what the real server answers beyond that is not proven.
"""

from kaggle_server.api import Store
from kaggle_server.protocol import KaggleServer
from kaggle_server.records import Competition
from kaggle_server.runs import plain

__all__ = ["Competition", "KaggleServer", "Store", "plain"]
