"""Endpoints that are scripted, one server for all tests of this folder."""

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("sqlalchemy")

from mtrouter_rl.serving.service.policy import PolicySettings
from mtrouter_rl.serving.service.run import ServeRequest
from mtrouter_rl.serving.service.settings import ServiceSettings
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
def address_of_endpoints(_endpoints):
    return _endpoints[1]


@pytest.fixture
def pool(address_of_endpoints, double):
    return remote_pool(address_of_endpoints)


@pytest.fixture
def request_of(pool, tmp_path):
    """Makes what a service is asked for: settings of the service and of the request by name."""

    def made(router="random", *, policy=None, **settings):
        given = {
            name: settings.pop(name)
            for name in ("explore", "seed", "only_decides", "pool", "store")
            if name in settings
        }
        return ServeRequest(
            **{"router": router, "pool": pool, "store": str(tmp_path / "served.sqlite"), "seed": 1} | given,
            settings=ServiceSettings(max_turns=30, policy=policy or PolicySettings(), **settings),
            watches=False,
        )

    return made
