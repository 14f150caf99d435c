"""The report on a study: tables, figures and a page that can be answered for."""
