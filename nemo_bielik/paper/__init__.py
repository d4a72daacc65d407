"""The report's own figures, as data, and what follows from them."""
