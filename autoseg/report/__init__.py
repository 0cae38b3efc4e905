"""The page of a run: its records as one self-contained HTML file. Imports neither torch nor matplotlib."""

from autoseg.report.page import write_report as write_report
