"""What the tests of the documentation share."""

import argparse

import pytest

from segcal.cli import _parser


@pytest.fixture(scope="session")
def segcal_parser() -> argparse.ArgumentParser:
    return _parser()
