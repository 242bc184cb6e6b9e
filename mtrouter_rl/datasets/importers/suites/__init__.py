"""Complete suites, in which every model ran every task: tables of outcomes, leaderboard files, folders of runs."""
