"""The pages that a run leaves: report, evaluation, comparison; each one self-contained HTML file.

Modules here compute what a page shows; `templates/` holds all of its markup.
"""
