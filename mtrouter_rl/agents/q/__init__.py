"""Routers that learn values or choices with a network: the joint Q-function, the learners of d3rlpy, the training loop."""
