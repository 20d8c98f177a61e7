"""Parse mathematical answers into typed values, and compare the values."""
