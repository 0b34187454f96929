"""`python -m report RUNS` judges the results of many runs, and draws and writes what it found.

May import files, models, engine.sharing, pruning_utils and errors.
"""
