"""What the pages say: tables, figures and sentences of the notebooks, and HTML."""
