"""The few-shot methods by name, as module:Class of their settings. Nothing is imported before it is asked for."""

from __future__ import annotations

FEW_SHOT_METHODS = {
    "zero_shot": "medalign_core.objectives.few_shot.zero_shot:ZeroShot",
    "linear_probe": "medalign_core.objectives.few_shot.linear_probe:LinearProbe",
    "coop": "medalign_core.objectives.few_shot.coop:CoOp",
    "kgcoop": "medalign_core.objectives.few_shot.coop:KgCoOp",
    "tcp": "medalign_core.objectives.few_shot.coop:TCP",
    "plot": "medalign_core.objectives.few_shot.plot:PLOT",
    "tip_adapter_f": "medalign_core.objectives.few_shot.tip_adapter:TipAdapterF",
    "dude": "medalign_core.objectives.few_shot.dude.settings:Dude",
    "dude_adapter": "medalign_core.objectives.few_shot.dude_adapter.settings:DudeAdapter",
}
