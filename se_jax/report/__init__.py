"""The pages that a run leaves: report, evaluation, comparison; each one self-contained HTML file."""
