"""This package looks inside a trained model: outliers, attention sinks, exact zeros.

The page that shows them is `qtx.pages.report`, apart from the rest because drawing needs matplotlib.
"""

from qtx.analysis.analysis import Analysis, load_analysis, measure_outliers, save_analysis
from qtx.analysis.capture import FloatingPoint
from qtx.analysis.metrics import attention_health, official_metrics, outlier_metrics

__all__ = [
    "Analysis",
    "FloatingPoint",
    "measure_outliers",
    "attention_health",
    "load_analysis",
    "official_metrics",
    "outlier_metrics",
    "save_analysis",
]
