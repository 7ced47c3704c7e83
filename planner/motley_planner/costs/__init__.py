"""The roofline: time and memory of one step, one function per physical quantity."""
