"""What every page and endpoint shares: who is let in, and how an application is served."""
