"""What happens around and inside an epoch: steps, schedules, processes, logs, a run's folder.

May import files, input_pipeline.loader, input_pipeline.workers, models.prepared, errors, and of
attack_utils one type.
This file imports nothing, so that `engine.schedules` and `engine.sharing` do without PyTorch.
"""
