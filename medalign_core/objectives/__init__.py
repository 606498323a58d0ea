"""Objectives: one method, one folder; settings that build a module whose forward gives (loss, stats)."""
