"""Routers and the algorithms that make them.

An algorithm (`base.Algorithm`) turns a training context into a router (`mtrouter_rl.protocols.Router`). Learned routers
share three parts: `transitions` lays a log out as arrays, `trainer` runs the one training loop over d3rlpy's
algorithms, and `joint_q` is the Q-function Q(h, m) that they train. `heuristics` and `behavior` hold the routers that
learn nothing, and `loading` reads any saved router back.
"""
