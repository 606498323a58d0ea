"""MedAlign's Ray layer: prepare corpora, train, evaluate and report. The functions below load what they need when called."""
