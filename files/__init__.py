"""Every file that a run writes or reads: its name, its writer and its reader, one module a format.

May import pruning_utils (the suffix of a mask, what masks keep) and errors. This file imports
nothing, so that `files.names` and `files.results` can be had without PyTorch.
"""
