"""Few-shot classification with a frozen dual encoder: Dude and the baselines it is compared with, one contract."""
