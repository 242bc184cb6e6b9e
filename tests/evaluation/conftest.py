from tests.cases.evaluation_fixtures import results, traced  # noqa: F401
