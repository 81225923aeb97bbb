"""Background services: each a loop around one `run_once` that returns the seconds until its next turn."""
