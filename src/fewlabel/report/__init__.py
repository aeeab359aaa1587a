"""Leaderboard, paired differences, figures and the report page."""
