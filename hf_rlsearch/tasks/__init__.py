"""Tasks: things to be tuned, synthetic (`prior`) or recorded (`recorded`)."""
