"""What runs around a ledger, and is imported by nothing below: the command line.

A package that only a service needs is imported in that service's module.
"""
