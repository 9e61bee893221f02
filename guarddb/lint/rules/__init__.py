"""What each statement does to others, one family a file. `RULES` leads from the kind of a statement to the function that knows
it.

A rule reads the statement and the script so far, and yields acts and remarks; it changes nothing (`following.py` keeps the
script).
"""
