"""The monitor's page: a watch behind HTTP, and the files that draw it in a browser."""
