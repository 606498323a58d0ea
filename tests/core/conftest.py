"""Checks the core's annotations of shape and type while its tests run, and makes the toy problems importable."""

import sys
from pathlib import Path

from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))  # tests are no packages; core_problems.py lives beside this file
# not the settings: what they are given wrongly is for their own messages to say
CHECKED = (
    "types",
    "ops",
    "solvers",
    "metrics.collapse",
    "metrics.plan_health",
    "models.dual.bert",
    "models.dual.biomed_clip",
    "models.dual.bridge",
    "models.dual.clip",
    "models.dual.efficientnet",
    "models.dual.injection",
    "models.dual.pixels",
    "models.dual.prompts",
    "models.dual.sentences",
    "models.dual.tokens",
    "models.dual.visual_prompts",
    "models.dual.vit",
    "models.encoders",
    "models.multimodal.batch",
    "models.multimodal.cross_entropy",
    "models.multimodal.model",
    "models.multimodal.packing",
    "models.multimodal.pooling",
    "models.projector",
    "objectives.few_shot.contexts",
    "objectives.few_shot.contract",
    "objectives.few_shot.dude.module",
    "objectives.few_shot.dude_adapter.module",
    "objectives.few_shot.fixed",
    "objectives.few_shot.key_cache",
    "objectives.few_shot.logistic_regression",
    "objectives.few_shot.loss",
    "objectives.few_shot.matching",
    "objectives.few_shot.transport_method",
    "objectives.holes",
    "objectives.info_nce.module",
    "objectives.logra_med.alignment",
    "objectives.logra_med.baselines.pairwise",
    "objectives.logra_med.baselines.word_assignment",
    "objectives.logra_med.duplicates",
    "objectives.logra_med.graphs",
    "objectives.logra_med.module",
    "objectives.lvm_med.affinity",
    "objectives.lvm_med.loss",
    "objectives.lvm_med.module",
    "objectives.self_supervised.byol_module",
    "objectives.self_supervised.moco_module",
    "objectives.self_supervised.pairwise",
    "objectives.self_supervised.swav_module",
    "objectives.self_supervised.target",
    "objectives.self_supervised.vicregl_module",
    "objectives.self_supervised.views",
)
install_import_hook([f"medalign_core.{part}" for part in CHECKED], "beartype.beartype")
