"""`fastrl report`: everything that a run folder tells, on one HTML page that needs nothing else."""

from fastrl.report.page.write import Written, write_page

__all__ = ["Written", "write_page"]
