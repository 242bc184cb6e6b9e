"""What a routing policy is worth: from episodes to one `results.json`.

Episodes become metrics of every policy (`metrics`), rows with intervals and paired differences (`result_rows`), and one file
(`results`). `closed_loop` runs the episodes, `behavior` says how a policy routed, `hidden_reference` what a policy that
sees the simulator's hidden state would reach.
"""
