"""The thin library under the gm-* tools."""

__version__ = "1.0.0"
