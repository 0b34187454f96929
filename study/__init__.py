"""`python -m study CONFIG`: the grid of runs that a TOML file names, run one beside the other.

May import files.names, files.atomic, files.features, files.metrics, files.results,
files.run_args, files.study_record, engine.schedules and errors: it starts without PyTorch.
"""
