"""When a search stops, on every path."""

from __future__ import annotations

MARGIN = 16.0  # F is a sum of at most this times N sums of the affinities: all of them must stay finite
TOLERANCE = 1e-4  # of F: the slope below which a climb stops; what is left of it the polish finds sooner
PATIENCE = 4  # steps without a better corner after which a climb stops: the last steps seldom find one
BARYCENTRE = 7  # the round that climbs from it: it costs two others, and seldom finds what they do not
FLOOR = 1e-10  # of the largest affinities: a smaller difference of F is rounding
