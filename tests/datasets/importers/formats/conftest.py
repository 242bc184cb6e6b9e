import json

import pytest

from mtrouter_rl.datasets.importers.base import Amount, ImportReport, ImportSource
from mtrouter_rl.datasets.importers.run import make_importer
from tests.cases.dataset_fixtures import pool  # noqa: F401


@pytest.fixture
def read(tmp_path, pool):  # noqa: F811
    """Imports files of a folder; gives the episodes and the report."""

    def run(name, files, *paths, scores=None, **options):
        folder = tmp_path / "log"
        for file, content in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(as_bytes(content))
        given = ()
        if scores is not None:
            given = (tmp_path / "scores.csv",)
            given[0].write_text("session_id,score\n" + "".join(f"{key},{value}\n" for key, value in scores.items()))
        report = ImportReport(format=name)
        shown = tuple(folder / path for path in paths) or (folder,)
        source = ImportSource(paths=shown, pool=pool, report=report, scores=given)
        episodes = list(make_importer(name, options).episodes(source))
        report.read = sum((Amount.of_turns(episode.turns) for episode in episodes), Amount())
        return episodes, report

    return run


def as_bytes(content):
    """Bytes as they are, a list as JSON Lines, anything else as JSON."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, list):
        return "".join(json.dumps(one) + "\n" for one in content).encode()
    return json.dumps(content).encode()
