"""The workbench around the ledger: experiments, their runs, figures and reports.

``python -m experiments list`` names the experiments; in a notebook start with `experiments.workbench`.
"""
