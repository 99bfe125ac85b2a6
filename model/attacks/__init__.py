"""Attacks on hashers: budgets, aims, one gradient loop, black-box searches, texts and natural corruptions."""
