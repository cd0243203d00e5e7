"""One HTML file about a trained model: what it is worth, for whom, how it was trained. See ``page.write_report``."""
