"""The whole loop over the protocol on one machine, without a key: collect, train, serve, use, import, train again."""
