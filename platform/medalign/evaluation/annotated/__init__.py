"""Evaluation of runs on annotated images: classification, segmentation and detection, predictions stored."""
