"""Rewards with ground truth: functions of questions, answers and rows, one module each, registered under "rewards"."""
