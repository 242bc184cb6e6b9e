"""Routers and the algorithms that make them.

An algorithm (`base.Algorithm`) turns a training context into a router (`mtrouter_rl.protocols.Router`). `q` holds those that
train a network, `regression` those that predict reward and cost, `rules` those that learn nothing. `saving` and `loading`
write a router to its folder and read it back; `resolve` makes one from what a user writes.
"""
