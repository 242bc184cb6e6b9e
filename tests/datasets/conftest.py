from tests.cases.dataset_fixtures import env_card, episodes, folder, info, make_episode, pool, traced  # noqa: F401
