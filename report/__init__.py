"""The report: run folders → tables → figures, interactive pages and one page to read. Never imports torch."""


class ReportError(ValueError):
    """Nothing to read, a metric that is not there, a folder that cannot be written: one line for the user."""
