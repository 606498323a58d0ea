"""Evaluation by questions: answers of any model, outside predictions and floors, scored by one protocol."""
