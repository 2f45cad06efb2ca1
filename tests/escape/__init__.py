"""Attacks on sandboxes of the shipped policies, each with a negative control.

``properties.yaml`` lists what has to hold and which tests show it; ``make escape`` prints that.
"""
