"""A browser for the tests of pages; they are skipped, and say so, where there is none."""

from tests.service.browser import browser, page

__all__ = ["browser", "page"]
