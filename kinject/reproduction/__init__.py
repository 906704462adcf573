"""The paper's tables and figures from recipes: a grid of runs, their results, and the comparison with the paper.

Each module uses those before it: `specification` reads YAML, `grid` makes the runs and starts those that are missing,
`findings` reads their results and checks the claims, and `rendering` shows tables and figures. `command` joins them for
`kinject reproduce`.
"""
