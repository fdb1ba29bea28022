"""Parsers given bytes that nobody wrote: each answers with a value or with one of the ledger's errors."""
