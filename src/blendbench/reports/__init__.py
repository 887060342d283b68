"""What is shown of a run: tables, the page, the summary of a sweep."""
