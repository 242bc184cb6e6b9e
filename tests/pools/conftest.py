from tests.cases.corridor_fixtures import backend_of, corridor_task, env_card, pool_data  # noqa: F401
