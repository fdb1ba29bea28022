"""What happens to a ledger: a batch is applied, committed and read, a checkpoint is taken, a ledger is recovered.

Modules here do not know the class `GeometricLedger`, except `warmup`, which uses it as a caller does. The order in
which a batch becomes visible is in `commit`, that in which the image moves in `checkpoint`.
"""
