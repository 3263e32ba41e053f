"""The charts of perfkit: pure functions from runs or a comparison to a plotly figure.

Each returns a `plotly.graph_objects.Figure`, or a `Note` which says why there is nothing to draw, never an empty plot.
"""

from perfkit.render.courses import detectable, run_values, time_course
from perfkit.render.distributions import latency_overlay, percentile_curve
from perfkit.render.effects import forest

__all__ = ["detectable", "forest", "latency_overlay", "percentile_curve", "run_values", "time_course"]
