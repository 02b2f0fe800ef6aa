"""Fixtures that several of these tests use."""

from local_site import make_site, site

__all__ = ["make_site", "site"]
