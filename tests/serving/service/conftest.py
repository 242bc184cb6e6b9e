"""Endpoints that are scripted, one server for all tests of this folder."""

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("sqlalchemy")

from tests.cases.served import Double, remote_pool, serving


@pytest.fixture(scope="session")
def _endpoints():
    double = Double()
    with serving(double.app()) as address:
        yield double, address


@pytest.fixture
def double(_endpoints):
    found, _ = _endpoints
    fresh = Double()
    vars(found).update(vars(fresh))
    return found


@pytest.fixture
def pool(_endpoints, double):
    return remote_pool(_endpoints[1])
