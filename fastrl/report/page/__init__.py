"""`fastrl report`: a run folder as one self-contained HTML page."""

from fastrl.report.page.write import Written, write_page

__all__ = ["Written", "write_page"]
