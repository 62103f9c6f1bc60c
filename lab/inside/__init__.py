"""Pages that show the inside: the live page with all models, and the microscope for a run of train_ppo.py."""
