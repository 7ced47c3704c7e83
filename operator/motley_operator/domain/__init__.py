"""Plain values that the operator's rooms hand to one another: facts in, actions out."""
