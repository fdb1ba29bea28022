"""What is measured: one module an experiment, imported in fresh processes, so numpy and the ledger only.

A spec names a function ``module:function``; it takes a `Trial`, works in the trial's own directory, does a
fixed number of operations and returns an `Outcome`. ``warm_up()`` beside it, if there is one, is called once in the
process that trials are forked from.
"""
