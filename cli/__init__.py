"""The flags: their names, recipes and types, what is built from them, and the plan of --dry_run.

Besides the mains and `one_shot` only this package sees `args`. May import evaluation, engine,
models, files, dataset, input_pipeline.loader, attack_utils, pruning_utils and errors.
"""
