"""MedAlign's numerical core: models, solvers and objectives in pure PyTorch. No Ray, no files, no network."""
