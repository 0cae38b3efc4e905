"""The page of a run, or of several: records as one self-contained HTML file. Imports neither torch nor matplotlib."""

from autoseg.report.comparison import write_comparison as write_comparison
from autoseg.report.page import write_report as write_report
