"""Breaking the project on purpose: `make torture`, or `python -m torture --only kills --count 9`.

Each module is a part with a function `run(tally, count, seed, folder)`: it tries something `count`
times and notes in the tally what was tried and what was lost. See `__main__` for the parts.
"""
