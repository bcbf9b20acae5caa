"""Namespaces for tests, and what happens where there is no right to make them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from .oracle import Namespace


@pytest.fixture(autouse=True)
def root() -> None:
    """Without root nothing here can be tried: in CI that is a failure, elsewhere a skip that says so."""
    if os.geteuid() != 0:
        reason = "making IPC namespaces needs root: NOT TESTED; run the tests as root"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def make_namespace(root: None) -> Iterator[Callable[[], Namespace]]:
    """Makes namespaces, which end with the test."""
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def source(make_namespace: Callable[[], Namespace]) -> Namespace:
    return make_namespace()


@pytest.fixture
def target(make_namespace: Callable[[], Namespace]) -> Namespace:
    return make_namespace()
