"""The report: run folders → tables → figures, interactive pages and one page to read. Never imports torch."""
