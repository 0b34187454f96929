"""How networks are measured: SA, RA, AutoAttack, gradient masking, `--evaluate`.

May import engine, models, files, dataset, input_pipeline, attack_utils, pruning_utils and errors.
"""
