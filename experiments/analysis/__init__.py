"""What is made of stored rows: one module an experiment; nothing here measures.

Such a module has ``figures(rows)``, the summary's numbers by name; ``answer(figures)``, the answer in words
with those numbers; ``headline(rows)``, the summary's figures; and ``table(rows)``. A spec that names no
module gets `plain`.
"""
