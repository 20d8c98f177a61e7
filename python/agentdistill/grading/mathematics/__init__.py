"""Two mathematical answers: how each is read, whole, into a typed value, and how two values are compared."""
