from mtrouter_rl.testing.contract import check_environment


def test_the_contract_on_the_shipped_card():
    report = check_environment("hle", n_episodes=12)
    report.raise_if_failed()
    assert report.status("expert") == "passed"
    assert report.status("replanning") == "passed"
