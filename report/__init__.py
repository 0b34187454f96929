"""`python -m report RUNS`: from the results of many runs to a verdict, figures and a page.

May import files, models and errors.
"""
