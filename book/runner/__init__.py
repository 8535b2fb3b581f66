"""The book's runner: profile -> executed chapters -> staged sources -> HTML. See book/build.py."""
