"""The paper's tables and figures from recipes: a declarative grid of runs, what it found, and how that compares.

One direction: `specification` reads YAML, `grid` makes runs of it, `runner` runs what is missing, `findings` reads what
the runs left, and `tables`, `figures` and `claims` show it. `command` wires them together for `kinject reproduce`.
"""
