"""The thin library under the gm-* tools."""

__version__ = "0.1.0"
