"""The core that the numbered stage scripts call. Imports run one way: see the map in the README.

`__version__` is that of the template the project was made from; `make help` and a bundle's manifest show it.
"""

__version__ = "1.0.0"
