"""The policy service: a trained router behind HTTP, as a model with OpenAI's interface and as decisions for a gateway.

`talk` reads conversations, `policy` draws models with exact propensities, `store` keeps sessions and decisions, `upstream`
calls the endpoints of the pool card, `desk` does one turn after the other, and `app` speaks HTTP.
"""
