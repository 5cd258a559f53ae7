"""What a run leaves behind: records, run folders and W&B. Import `experiment_tracker` instead."""
