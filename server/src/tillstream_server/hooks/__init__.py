"""The doors for cloud POS systems: webhooks in, records out, by the same pipeline as what tills send.

A *source* is a cloud POS's account, and stands in the ledger as a till of its own, whose device is the server itself:
what a webhook says is read by an adapter, cut, sealed into a frame of that till, and taken like any other batch.
"""
