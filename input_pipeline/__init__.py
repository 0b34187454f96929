"""How images come from a disk to a batch: sources, transforms, the loader; behind `dataset`.

May import files.features (locks) and errors.
"""
