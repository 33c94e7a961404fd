"""Software update streams: what server and agent share lives here, each side in its own folder."""

__version__ = "0.1.0"
