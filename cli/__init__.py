"""The flags: their names, recipes and types, what is built from them, and the plan of --dry_run.

Besides the mains and `one_shot` only this package sees `args`. It may import everything below the
mains but `report` and `study`.
"""
