from tests.cases.corridor_fixtures import pool_data  # noqa: F401
from tests.cases.dataset_fixtures import env_card, make_episode  # noqa: F401
