"""Plans: what a recipe means for a corpus, resolved and checked; and what it will need, before a GPU is rented."""

from medalign.plan.run_plan import RunPlan, decoder_of, name_objective, plan_run

__all__ = ["RunPlan", "decoder_of", "name_objective", "plan_run"]
